"""One run's life: who owns it, what it says, how it ends. This page is the theory of its operation.

**Owner.** A run is executed by one container, its owner: the one whose record of the run was put first. While the owner
lives, it alone executes the run and writes its log. Every container may read the run, ask the owner to cancel it, and
close it once the owner is dead. Responses to clients are readers of a run; none of them owns it.

**Who may write what.** The shared state (`shared_state`) has no transactions. Two kinds of write are safe in a race:
putting a key that is not there yet (`put_first`: one writer wins, the others see what the winner put), and appending to
a queue (one order for all readers). Every other write belongs to one writer, or may be repeated without harm.

- `key/…`, from Idempotency-Key to run id: any container; the first claim stands.
- `run/{id}`, the record: whoever creates it first becomes the owner. `ended` and `archived` are written by the owner or
  by closers, who all write the same outcome, so a slow one may repeat both; `expired` by the sweeper alone.
- The dict of runs under way: a run is entered before its record is created, and removed after `archived`.
- `lease/{project}/{n}`, the chain of a project's leases: link n+1 is put by who claims the project, first come, first
  served; its release is written by its holder. `lease/{project}` is the newest number; it may lag, the chain cannot.
- `owner/{id}`, an owner's beat: that owner. `owner/{id}/{n}`, whether it was back or is dead: the first put stands.
- `breaker/{project}`, failed starts in a row: the holder of the lease.
- The log, queue partitions `{id}/{segment}`: the owner while it holds its own lease, afterwards any closer; the owner
  is one of them when its writer has failed.
- The control queue, partition `{owner}`: any container puts messages, the owner alone takes them.
- Model traffic, queue partition `run/{id}`: the gateway appends, and who has recorded the run as archived clears it.
- The archive, `/{day}/{id}/` on the volume: the owner or a closer; the last commit stands, all with the same events.

**Beats** (`ownership`). An owner renews its lease of `lease_s` seconds six times in that time. It may write only while
the last beat that was confirmed was sent less than `lease_s` ago, by its own monotonic clock. Others suspect that an
owner is dead when they have looked twice and its beat has not changed, and is older than `lease_s` and a margin for
differing clocks; one whose beat is missing has left. So an owner stops writing before others begin; should one of its
puts still arrive late, the log's own rule decides, the same for all. A lease may run out though nobody is dead: a
container, or the platform, was late. Then `owner/{id}/{n}` decides: the owner puts that it is `back` for the n-th time
and goes on with its runs, or somebody has put that it is `dead`, which is for good: the container goes on under a new
owner id. Whoever acts for a dead owner has put, or found, that it is dead.

**The log** (`batches`, `log`). A batch is a piece of the SSE stream, events `first` to `last`. It counts if it begins
where the last one that counted has ended, and nothing counts after a terminal event: a run has one end, however many
are written. A segment takes about 4,000 items or 8 MiB; its last batch says that another segment follows. Modal drops a
segment 24 hours after its last batch, so a run must be archived by then. The owner's `journal` numbers the events and
checks their order. A batch is in the log before it is in the `event_spool`, the file that readers are served from.
Other containers fill their own spools (`following`): from the log while a run is under way, then from the archive.

**The legal order.** (1) Claim the key. (2) Claim the project's lease; a run that waits for its project does this after
(3), and one that only reads committed files never. (3) Enter the run as under way and create its record, `open`. (4)
Write events; wait for a turn to start a sandbox (`starts`), which does not count as the run's time; create, use, commit
and terminate the sandbox; release the lease. (5) Put the terminal event. (6) Record `ended`. (7) Write the archive,
commit it, read it back. (8) Record `archived` and remove the run from those under way. (9) After `keep_s` seconds,
remove archive and log and record `expired`. Never is a terminal event put before the sandbox's termination was tried
(the event says whether it was confirmed; a prewarmed sandbox stays), never `ended` recorded without a terminal event in
the log, never `archived` before the archive was read back.

**What a crash of the owner leaves, and who finishes it.** To close a run (`closing`) is to end its sandboxes, read its
log, append an `error` unless there is a terminal event, and go through (6) to (8). The sweeper closes what it finds
every `sweep_s` seconds; so does a reader in another container, and a DELETE. They may do it at the same time.

- After (1): a key without a run. The next request with that key makes the run.
- After (2): a lease without a run. The next claim takes the project, once the owner is dead, or the lease so old that
  no run can still follow it. An owner that lives gives the project back when its submission breaks off.
- Within (3): a run under way without a record. The sweeper removes it from those under way when its id is old enough.
- After (3): an `open` record and an empty log. Closed, with `accepted` and `error: container_lost` as its events.
- In (4): half a log and a live sandbox, which ends itself after `lease_s` seconds of silence. Closed in the same way.
  What was committed stays, but is not claimed: without its `done` the run ends with `container_lost`. A change of
  files that was cut off is taken back by the project's next sandbox, before its job.
- After (5): a log with its end and an `open` record. Closed; the end that is in the log stands.
- After (6) or within (7): an `ended` record, perhaps half an archive. Closed when the owner is dead or `sweep_margin_s`
  seconds have passed; the archive is written anew.
- Within (8): an `archived` run among those under way. The sweeper removes it there.

An archive that a closer has written says `closed_by: other` and lacks what the owner alone knew: what was seen of the
process, the cost, the request. An owner that lives but was taken for dead ends the sandboxes of its runs, writes no
more to their logs and archives nothing. A container that is told to end lets its runs go on for `drain_s` seconds;
then it ends those that are left itself, with `container_lost`, and archives them.
"""
