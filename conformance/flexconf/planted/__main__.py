"""`python -m flexconf.planted`."""

from flexconf.planted.cli import main

if __name__ == "__main__":
    main()
