"""``python -m voltana_sglang``: the same as ``voltana-sglang``."""

from voltana_sglang.entry import main

if __name__ == "__main__":
    main()
