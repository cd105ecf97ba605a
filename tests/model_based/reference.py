"""The cache as a page of plain Python: what the manager should answer, in the slowest way."""

from __future__ import annotations

from dataclasses import dataclass

from tests.model_based.world import Spec

Prefix = tuple[tuple[str, str, str], tuple[int, ...]]  # scope, tokens up to the page's end


@dataclass(eq=False)
class Held:
    """A live request."""

    spec: Spec
    tokens: list[int]
    pages: list[int]
    base: int
    lr: int
    done: int
    context: int | None
    detached: bool = False


class Reference:
    """Published prefixes, their valid slots, the idle order, and the live requests."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        self.page_of: dict[Prefix, int] = {}
        self.prefix_of: dict[int, Prefix] = {}
        self.valid: dict[int, set[int]] = {}
        self.idle: list[int] = []
        self.live: list[Held] = []

    def holders(self, page: int) -> int:
        return sum(held.pages.count(page) for held in self.live)

    def available(self) -> int:
        return self.num_pages - len({page for held in self.live for page in held.pages})

    def admit(self, spec: Spec, tokens: list[int]) -> Held:
        size = self.page_size
        pages: list[int] = []
        context = spec.context(tokens)
        while (end := (len(pages) + 1) * size) <= (len(tokens) if context is None else context):
            page = self.page_of.get((spec.scope, tuple(tokens[:end])))
            if page is None:
                break
            pages.append(page)
        lr = 0
        while lr < len(pages) and (spec.slot is None or spec.slot in self.valid[pages[lr]]):
            lr += 1
        done = min(len(pages) * size, lr * size, len(tokens) - 1)
        held = Held(spec, list(tokens), pages, len(pages) * size, lr * size, done, context)
        self.idle = [page for page in self.idle if page not in pages]
        self.live.append(held)
        return held

    def missing(self, held: Held, num_tokens: int) -> int:
        return max(0, -(-num_tokens // self.page_size) - len(held.pages))

    def extend(self, held: Held, new_pages: list[int]) -> None:
        free = self.available() - len(self.idle)
        evicted = [self.idle.pop(0) for _ in range(len(new_pages) - free)]
        for page in evicted:
            self._unpublish(page)
        for page in new_pages:
            assert self.holders(page) == 0, f"page {page} was handed out while in use"
            assert page not in self.idle, f"page {page} was handed out of its turn"
        assert len(set(new_pages)) == len(new_pages), f"handed out twice: {new_pages}"
        held.pages += new_pages

    def commit(self, held: Held, done: int) -> list[str]:
        """Publish full pages, set bits; returns what happened."""
        size, events = self.page_size, []
        for i in range(held.done // size, done // size):
            page, prefix = held.pages[i], (held.spec.scope, tuple(held.tokens[: (i + 1) * size]))
            private = held.context is not None and (i + 1) * size > held.context
            if held.detached or private:
                events.append("private page filled" if private else "detached page filled")
                continue
            if i * size < held.base:
                if i * size >= held.lr:
                    self.valid[page] |= set(held.spec.fills)
                    events.append("slot of a shared page filled")
            elif prefix in self.page_of:
                events.append("page published by another first")
            else:
                self.page_of[prefix], self.prefix_of[page] = page, prefix
                self.valid[page] = set(held.spec.fills)
        held.done = done
        return events

    def release(self, held: Held) -> None:
        self.live.remove(held)
        self.idle += [
            page
            for page in reversed(held.pages)
            if page in self.prefix_of and self.holders(page) == 0
        ]

    def forget(self, sharer: str, tenant: str | None) -> int:
        freed = 0
        for page, (scope, _) in list(self.prefix_of.items()):
            if scope[2] == sharer and tenant in (None, scope[1]):
                self._unpublish(page)
                freed += page in self.idle
        self.idle = [page for page in self.idle if page in self.prefix_of]
        for held in self.live:
            if held.spec.sharer == sharer and tenant in (None, held.spec.tenant):
                held.detached = True
        return freed

    def _unpublish(self, page: int) -> None:
        del self.page_of[self.prefix_of.pop(page)]
        del self.valid[page]
