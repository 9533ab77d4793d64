"""`python -m flexconf`."""

from flexconf.cli import main

if __name__ == "__main__":
    main()
