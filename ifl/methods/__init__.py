"""Methods: NAME.py has a class Method (see ifl/method.py for the contract)."""
