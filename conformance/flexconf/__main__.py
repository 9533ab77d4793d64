"""`python -m flexconf`."""

from flexconf.cli.main import main

if __name__ == "__main__":
    main()
