"""`python conformance/mutation`.

The work is in a module of its own: the processes that it starts cannot import a folder's `__main__`.
"""

import sys

from mutating import main

if __name__ == "__main__":
    sys.exit(main())
