"""Which requests compute which tokens in the next step: decodes first, then prompts in chunks, first come first served.

When the cache is full the youngest running request gives its blocks back and waits to be computed again (preemption by
recomputation, as in vLLM); its text so far is kept.
"""

from collections import deque
from dataclasses import dataclass, field

from inference_server.engines.native.kv_cache import BlockAllocator, NoBlocks, Table
from inference_server.engines.native.sampler import Chooser


@dataclass(slots=True, eq=False)
class Sequence:
    """One request on its way: its tokens, its blocks, how its tokens are chosen."""

    prompt: list[int]
    limit: int
    """New tokens at most."""
    chooser: Chooser
    output: list[int] = field(default_factory=list)
    table: Table = field(default_factory=Table)
    cancelled: bool = False

    @property
    def tokens(self) -> list[int]:
        """All tokens known so far."""
        return self.prompt + self.output

    @property
    def length(self) -> int:
        """How many those are."""
        return len(self.prompt) + len(self.output)

    @property
    def uncomputed(self) -> int:
        """Tokens whose keys and values are not in the cache; 1 while decoding."""
        return self.length - self.table.computed


@dataclass(frozen=True, slots=True)
class Work:
    """One sequence's part of a step: its next ``tokens`` uncomputed tokens."""

    sequence: Sequence
    tokens: int

    @property
    def last(self) -> bool:
        """Whether the step computes its last known token, so that the next one can be chosen."""
        return self.tokens == self.sequence.uncomputed


@dataclass(slots=True)
class Scheduler:
    """The waiting and the running, over one block allocator."""

    allocator: BlockAllocator
    token_budget: int
    """Tokens in one step at most: prompts longer than what is left are computed in chunks."""
    most_running: int
    waiting: deque[Sequence] = field(default_factory=deque)
    running: list[Sequence] = field(default_factory=list)

    def add(self, sequence: Sequence) -> None:
        """To the end of the queue."""
        self.waiting.append(sequence)

    def schedule(self) -> list[Work]:
        """The next step's work, decodes first. Empty when there is nothing to do."""
        self._drop_cancelled()
        work: list[Work] = []
        budget = self.token_budget
        for sequence in list(self.running):
            if sequence in self.running and budget > 0:
                tokens = min(sequence.uncomputed, budget)
                if self._make_room(sequence, sequence.table.computed + tokens):
                    work.append(Work(sequence, tokens))
                    budget -= tokens
        work = [w for w in work if w.sequence in self.running]
        if budget > 0:
            work += self._admit(budget)
        return sorted(work, key=lambda w: w.tokens > 1)

    def finish(self, sequence: Sequence) -> None:
        """Takes it out and gives its blocks back."""
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        self.allocator.release(sequence.table)

    def _admit(self, budget: int) -> list[Work]:
        work: list[Work] = []
        while self.waiting and budget > 0 and len(self.running) < self.most_running:
            sequence = self.waiting[0]
            sequence.table = self.allocator.match(sequence.tokens)
            tokens = min(sequence.uncomputed, budget)
            try:
                self.allocator.grow(sequence.table, sequence.table.computed + tokens)
            except NoBlocks:
                self.allocator.release(sequence.table)
                break
            self.running.append(self.waiting.popleft())
            work.append(Work(sequence, tokens))
            budget -= tokens
        return work

    def _make_room(self, sequence: Sequence, tokens: int) -> bool:
        """Grows its table, preempting the youngest while there is none; False if that was ``sequence`` itself."""
        while True:
            try:
                self.allocator.grow(sequence.table, tokens)
            except NoBlocks:
                youngest = self.running[-1]
                self._preempt(youngest)
                if youngest is sequence:
                    return False
            else:
                return True

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.allocator.release(sequence.table)
        self.waiting.appendleft(sequence)

    def _drop_cancelled(self) -> None:
        for sequence in [s for s in (*self.running, *self.waiting) if s.cancelled]:
            self.finish(sequence)
