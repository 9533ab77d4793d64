"""Makes a Python module of a rendered text. Tracebacks, Dynamo and CuTe's own parser find its source."""

from __future__ import annotations

import hashlib
import linecache
import sys
import types
from collections import OrderedDict

_MOST = 256
_loaded: OrderedDict[str, types.ModuleType] = OrderedDict()  # the most recently used module is the last


def load(text: str) -> types.ModuleType:
    """Execute a rendered module. `text` must be rendered by this package, since it runs as code.

    Equal texts give the same module, as long as it is among the 256 most recently used. `@cute.jit` reads a function's
    source, so the text is registered in linecache under a name made of its digest. Raises SyntaxError if the text is
    not Python (a defect of the template).
    """
    name = f"flexflash_kernel_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    if name in _loaded:
        _loaded.move_to_end(name)
        return _loaded[name]
    filename = f"<{name}>"
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    module = types.ModuleType(name)
    module.__file__ = filename
    # The compiler asks `inspect` for the module of each of its frames. If the file belongs to no module and is not on
    # disk, `inspect` searches all loaded modules each time.
    sys.modules[name] = module
    try:
        exec(compile(text, filename, "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    _loaded[name] = module
    while len(_loaded) > _MOST:
        oldest, _ = _loaded.popitem(last=False)
        sys.modules.pop(oldest, None)
    return module
