"""``python -m voltana_vllm``: the same as ``voltana-vllm``."""

from voltana_vllm.entry import main

if __name__ == "__main__":
    main()
