"""One file answers one question from the literature: `Config`, `run(config) -> Results`, `main()`."""
