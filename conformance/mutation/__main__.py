"""`python conformance/mutation`.

The code is in the module `mutating`, because worker processes cannot import the `__main__` of a folder.
"""

import sys

from mutating import main

if __name__ == "__main__":
    sys.exit(main())
