"""Which files of a volume with snapshots are needed, and how the rest goes, one step after the other."""

import itertools

import hypothesis
import pytest
from hypothesis import strategies as st

from bocage.model import base, ground, snapshot
from bocage.model.units import Size
from bocage.planner import layers
from tests.planner import things

VOLUME = "00000000-0000-4000-8000-000000000001"
BASE = "disk0.qcow2"


def name(number: int) -> str:
    return f"disk0-{number:08x}.qcow2"


def spec(tip: str = BASE, *, layers: dict[str, str] | None = None) -> ground.VolumeSpec:
    stem, _, kind = tip.rpartition(".")
    fields = {"storage": VOLUME, "size": "1M", "name": stem, "format": kind, "layers": layers or {}}
    return ground.VolumeSpec.model_validate(fields)


def linear(depth: int) -> ground.VolumeSpec:
    """A chain of `depth` files above the first."""
    whole = [BASE, *map(name, range(1, depth + 1))]
    return spec(whole[-1], layers={above: below for below, above in itertools.pairwise(whole)})


def brought_down(held: ground.VolumeSpec, kept: set[str], *, written: bool) -> tuple[ground.VolumeSpec, set[str]]:
    """What is left when all steps are done, and the snapshots' files by then."""
    for _ in range(1000):
        step = layers.superfluous(held, kept, written=written)
        if step is None:
            return held, kept
        if isinstance(step, layers.Drop):
            changes = layers.dropped(held, step.file)
        else:
            assert held.layers[step.file] == step.into
            assert step.into not in kept, "a snapshot's file is never written to"
            assert not (written and step.file == held.file_name), "the guest's own file is never merged while it writes"
            changes = layers.merged(held, step)
            kept = {step.into if one == step.file else one for one in kept}
        held = held.model_copy(update=changes)
    raise AssertionError("it does not come to an end")


def test_without_snapshots_one_file_is_left_when_the_vm_is_off():
    held, _ = brought_down(linear(5), set(), written=False)
    assert (layers.every(held), held.layers) == ((BASE,), {})


def test_a_chain_is_as_deep_as_it_may_be_and_no_deeper():
    machine = things.machine(disks=[{"name": "disk0", "volume": VOLUME, "serial": "s"}])

    def volumes(depth: int) -> dict[str, ground.Volume]:
        about = base.Metadata(uid=VOLUME, name="v", project="default")
        return {VOLUME: ground.Volume(metadata=about, spec=linear(depth))}

    layers.check_depth(machine, volumes(layers.MOST_DEEP - 1))
    with pytest.raises(layers.TooDeep) as refused:
        layers.check_depth(machine, volumes(layers.MOST_DEEP))
    assert (refused.value.disk, refused.value.count) == ("disk0", layers.MOST_DEEP)


def test_while_the_guest_writes_its_own_file_stays_above_one():
    held, _ = brought_down(linear(5), set(), written=True)
    assert layers.chain(held) == (name(5), BASE)


def test_what_a_snapshot_holds_stays_and_takes_the_place_of_what_it_rested_on():
    held, kept = brought_down(linear(4), {name(2)}, written=False)
    assert layers.chain(held) == (name(3), BASE)
    assert kept == {BASE}


def test_a_file_that_nothing_rests_on_goes():
    tree = {name(1): BASE, name(2): BASE}
    held, _ = brought_down(spec(name(2), layers=tree), {BASE}, written=True)
    assert layers.every(held) == (name(2), BASE)


def test_where_two_ways_part_the_file_below_stays_though_no_snapshot_has_it():
    tree = {name(1): BASE, name(2): name(1), name(3): name(1)}
    held, kept = brought_down(spec(name(3), layers=tree), {name(2)}, written=False)
    assert layers.every(held) == (name(3), name(2), BASE)
    assert kept == {name(2)}


def test_a_merge_that_was_begun_is_ended_first():
    held = linear(3).model_copy(update={"merging": name(2)})
    assert layers.superfluous(held, {BASE, name(1), name(2)}, written=True) == layers.Merge(name(2), name(1))


def test_layers_that_rest_on_themselves_or_below_a_raw_file_are_refused():
    for wrong in ({name(1): name(1)}, {name(1): name(2), name(2): name(1)}, {"disk0.raw": BASE}):
        with pytest.raises(ValueError, match="cannot rest on"):
            spec(layers=wrong)
    with pytest.raises(ValueError, match="pattern"):
        spec(layers={"../../secret.qcow2": BASE})


@hypothesis.given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=30), st.booleans(), st.randoms())
def test_whatever_the_tree_each_snapshot_reads_the_same_afterwards(grown, written, chance):
    """Each file holds its own number; what a chain reads is the newest number for each of them that lies in it."""
    tree: dict[str, str] = {}
    known, kept = [BASE], set[str]()
    for number, (below, keeps) in enumerate(grown, 1):
        parent = known[below % len(known)]
        tree[name(number)] = parent
        known.append(name(number))
        if keeps:
            kept.add(parent)
    leaves = [one for one in known if one not in tree.values()]
    tip = chance.choice([one for one in leaves if one not in kept])
    held = spec(tip, layers=tree)
    holds = {one: {one} for one in known}

    def reads(volume: ground.VolumeSpec, file: str) -> set[str]:
        return set().union(*(holds[one] for one in layers.chain(volume, file)))

    marks = {file: file for file in kept}
    before = {mark: reads(held, file) for mark, file in marks.items()}
    guest = reads(held, tip)
    while (step := layers.superfluous(held, set(marks.values()), written=written)) is not None:
        if isinstance(step, layers.Drop):
            held = held.model_copy(update=layers.dropped(held, step.file))
        else:
            holds[step.into] |= holds[step.file]
            held = held.model_copy(update=layers.merged(held, step))
            marks = {mark: step.into if file == step.file else file for mark, file in marks.items()}
        assert guest == reads(held, held.file_name)
        assert before == {mark: reads(held, file) for mark, file in marks.items()}
    if written:
        assert held.file_name == tip


def test_the_tree_of_snapshots_is_that_of_their_files():
    tree = {name(1): BASE, name(2): name(1), name(3): name(1)}
    volume = ground.Volume(
        metadata=base.Metadata(uid=VOLUME, name="v", project="default"), spec=spec(name(3), layers=tree)
    )
    first, second, third = (moment(file) for file in (BASE, name(1), name(2)))
    parents, present = layers.lineage([first, second, third], {VOLUME: volume})
    assert parents == {first.uid: None, second.uid: first.uid, third.uid: second.uid}
    assert present == second.uid


def moment(file: str) -> snapshot.Snapshot:
    disk = snapshot.SnapshotDisk(disk="disk0", volume=VOLUME, file=file, size=Size(1 << 20))
    return snapshot.Snapshot(
        metadata=base.Metadata(name="s", project="default"),
        spec=snapshot.SnapshotSpec(vm=VOLUME, machine=things.machine().spec),
        status=snapshot.SnapshotStatus(state="ready", disks=(disk,)),
    )
