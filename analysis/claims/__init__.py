"""The paper's claims, judged on our runs: one verdict a claim and protocol."""
