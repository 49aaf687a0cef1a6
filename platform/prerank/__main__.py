"""`python -m prerank` is the `prerank` command."""

from prerank.cli import main

if __name__ == "__main__":
    main()
