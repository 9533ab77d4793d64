"""Rendered text -> a Python module, with its source where tracebacks, Dynamo and CuTe's own parser find it."""

from __future__ import annotations

import hashlib
import linecache
import sys
import types
from functools import lru_cache


@lru_cache(maxsize=256)
def load(text: str) -> types.ModuleType:
    """Execute a rendered module. Only text that this package rendered may come here.

    `@cute.jit` reads a function's source, so the text is registered in linecache under a name made of its digest.
    Raises SyntaxError when the text is not Python (a defect of the template).
    """
    name = f"flexflash_kernel_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    filename = f"<{name}>"
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    module = types.ModuleType(name)
    module.__file__ = filename
    # The compiler asks `inspect` for the module of each of its frames. Of a file that is in no module and on no disk,
    # `inspect` looks through all modules that are loaded, each time.
    sys.modules[name] = module
    exec(compile(text, filename, "exec"), module.__dict__)
    return module
