"""`python -m nexus_llm.cli` is `nexus`."""

from nexus_llm.cli import main

if __name__ == "__main__":
    main()
