"""``python -m toy.explorer [PORT]``: serve the explorer without opening a browser."""

import sys

from toy.explorer import serve

if __name__ == "__main__":
    serve(port=int(sys.argv[1]) if len(sys.argv) > 1 else 5006, show=False)
