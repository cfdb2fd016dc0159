"""The paper's tables, trained and evaluated again."""
