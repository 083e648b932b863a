"""A prefix cache of tokens in KV memory, as SGLang's radix cache keeps and evicts them.

A tree whose edges are runs of tokens: a request walks from the root as far as its tokens agree, in
whole pages, and what it brings beyond becomes a new leaf. Every walk marks what it passes as used
now; a run that is left half-way is split there. When room is needed, the leaf that was used longest
ago goes whole, then the next, and nothing that a request in flight uses (SGLang 0.5.23,
``srt/mem_cache/radix_cache.py``; T. Zheng et al., "SGLang", NeurIPS 2024, for the tree).

Tokens are known by the blocks that they lie in (`voltana.values.Prefix`): equal numbers stand for
equal tokens, and tokens of different blocks are taken to differ from the first on.
"""

from __future__ import annotations

import heapq
from itertools import count

from voltana.errors import invalid
from voltana.values import Prefix

_Key = int | tuple[int, ...] | str


class Run:
    """The tokens ``start`` to ``end`` of every request whose blocks begin with ``ids``.

    Attributes:
        ids: Blocks, from the first of the request on.
        block: Tokens of one.
        start: First token.
        end: Token after the last.
        parent: The run before it; None of the root.
        children: Runs after it, by the blocks of their first page.
        used: When it was used last, on a clock that counts uses.
        locks: Requests in flight that use it.
        key: What its parent knows it by: the blocks of its first page, or a name of its own where
            nobody says what its tokens are.
    """

    __slots__ = ("block", "children", "end", "ids", "key", "locks", "parent", "start", "used")

    def __init__(
        self, prefix: Prefix, start: int, end: int, *, parent: Run | None, key: _Key, used: int
    ) -> None:
        self.ids, self.block = prefix
        self.start = start
        self.end = end
        self.parent = parent
        self.key = key
        self.children: dict[_Key, Run] = {}
        self.used = used
        self.locks = 0

    def __len__(self) -> int:
        return self.end - self.start


class PrefixCache:
    """What of the prompts of requests is in the KV memory of an instance.

    Args:
        page_tokens: Tokens of a page: matches are cut to whole ones.

    Raises:
        ConfigError: If that is below 1.

    Attributes:
        tokens: Tokens in it.
        held_tokens: Those of them that requests in flight use.
    """

    def __init__(self, page_tokens: int = 1) -> None:
        if page_tokens < 1:
            raise invalid("page_tokens", page_tokens, "at least 1", "SGLang's default is 1.")
        self._page = page_tokens
        self._clock = count(1)
        self._roots: dict[int, Run] = {}
        self._leaves: set[Run] = set()
        self.tokens = self.held_tokens = 0

    def peek(self, prefix: Prefix, limit: int) -> int:
        """Tokens of a request that are there, of its first `limit`; nothing counts as used."""
        node, at, limit = self._root(prefix.block_tokens), 0, self._reach(prefix, limit)
        while at < limit:
            child = node.children.get(self._key(prefix.ids, prefix.block_tokens, at))
            if child is None:
                break
            shared = self._shared(child, prefix, limit)
            at += shared
            if shared < len(child):
                break
            node = child
        return at

    def match(self, prefix: Prefix, limit: int) -> Run:
        """The longest part of a request's first `limit` tokens that is there, used now.

        Returns:
            The run that it ends with; its `end` is how many tokens are there.
        """
        node, at, limit = self._root(prefix.block_tokens), 0, self._reach(prefix, limit)
        now = next(self._clock)
        while at < limit:
            child = node.children.get(self._key(prefix.ids, prefix.block_tokens, at))
            if child is None:
                break
            child.used = now
            shared = self._shared(child, prefix, limit)
            at += shared
            if shared < len(child):
                return self._split(child, at) if shared else node
            node = child
        return node

    def insert(self, prefix: Prefix, limit: int) -> Run:
        """Keep a request's first `limit` tokens; returns the run that they end with."""
        limit = self._reach(prefix, limit)
        node = self.match(prefix, limit)
        if node.end >= limit:
            return node
        key = self._key(prefix.ids, prefix.block_tokens, node.end)
        leaf = Run(prefix, node.end, limit, parent=node, key=key, used=next(self._clock))
        self._hang(leaf, node)
        return leaf

    def append(self, run: Run, tokens: int) -> None:
        """Keep whole pages of so many tokens behind a run, of which nobody says what they are.

        They take room until they are given up, and nobody finds them.
        """
        tokens = tokens // self._page * self._page
        if tokens <= 0:
            return
        used, whole = next(self._clock), Prefix(run.ids, run.block)
        key = f"untold {used}"
        self._hang(Run(whole, run.end, run.end + tokens, parent=run, key=key, used=used), run)

    def lock(self, run: Run) -> None:
        """A request in flight uses everything up to a run."""
        self._count_locks(run, 1)

    def unlock(self, run: Run) -> None:
        """It does so no longer."""
        self._count_locks(run, -1)

    def unheld_tokens(self, run: Run) -> int:
        """Tokens up to a run that nobody in flight uses."""
        tokens, at = 0, run
        while at.parent is not None and not at.locks:
            tokens += len(at)
            at = at.parent
        return tokens

    def evict(self, tokens: float) -> int:
        """Give up leaves, those used longest ago first, until so many tokens are gone.

        Returns:
            Tokens that are gone: more where the last leaf was longer, less where all else is used.
        """
        free = [(leaf.used, id(leaf), leaf) for leaf in self._leaves if not leaf.locks]
        heapq.heapify(free)
        gone = 0
        while free and gone < tokens:
            _, _, leaf = heapq.heappop(free)
            gone += len(leaf)
            parent = self._remove(leaf)
            if parent.parent is not None and not parent.children:
                self._leaves.add(parent)
                if not parent.locks:
                    heapq.heappush(free, (parent.used, id(parent), parent))
        self.tokens -= gone
        return gone

    def _hang(self, leaf: Run, parent: Run) -> None:
        """Hang a new leaf behind a run."""
        parent.children[leaf.key] = leaf
        self._leaves.discard(parent)
        self._leaves.add(leaf)
        self.tokens += len(leaf)

    def _remove(self, leaf: Run) -> Run:
        parent = leaf.parent
        assert parent is not None
        self._leaves.discard(leaf)
        del parent.children[leaf.key]
        return parent

    def _root(self, block_tokens: int) -> Run:
        """Blocks of another size are other tokens."""
        root = self._roots.get(block_tokens)
        if root is None:
            root = Run(Prefix((), block_tokens), 0, 0, parent=None, key="", used=0)
            self._roots[block_tokens] = root
        return root

    def _reach(self, prefix: Prefix, limit: int) -> int:
        """Tokens of whole pages within the first `limit`, as far as blocks are known."""
        known = min(limit, len(prefix.ids) * prefix.block_tokens)
        return max(0, known // self._page * self._page)

    def _key(self, ids: tuple[int, ...], block: int, at: int) -> _Key:
        """What tells the runs apart that begin at one token: the blocks of their first page."""
        if self._page == 1:
            return ids[at // block]
        return ids[at // block : (at + self._page - 1) // block + 1]

    def _shared(self, run: Run, prefix: Prefix, limit: int) -> int:
        """Tokens of a run, in whole pages, that a request has as well."""
        end, block = min(run.end, limit), run.block
        first, last = run.start // block, -(-end // block)
        ours, theirs = prefix.ids[first:last], run.ids[first:last]
        if ours != theirs:
            differ = next(i for i, own in enumerate(ours) if own != theirs[i])
            end = (first + differ) * block
        return max(0, end - run.start) // self._page * self._page

    def _split(self, run: Run, at: int) -> Run:
        """Cut a run in two; returns the first part, behind which the second hangs."""
        parent = run.parent
        assert parent is not None
        whole = Prefix(run.ids, run.block)
        head = Run(whole, run.start, at, parent=parent, key=run.key, used=next(self._clock))
        head.locks = run.locks
        parent.children[head.key] = head
        run.start, run.parent, run.key = at, head, self._key(run.ids, run.block, at)
        head.children[run.key] = run
        return head

    def _count_locks(self, run: Run | None, by: int) -> None:
        while run is not None and run.parent is not None:
            before = run.locks
            run.locks += by
            if not before or not run.locks:
                self.held_tokens += by * len(run)
            run = run.parent
