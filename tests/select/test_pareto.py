from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from leanloop.select.pareto import dominates, pareto_front

# Few distinct values, so that ties and duplicates are common.
points = st.lists(st.tuples(*[st.integers(0, 3)] * 3), max_size=12)


def test_front_of_a_known_cloud() -> None:
    assert pareto_front([(1, 4), (2, 2), (4, 1), (3, 3), (2, 5)]) == [True, True, True, False, False]


def test_no_points_no_front() -> None:
    assert pareto_front([]) == []


@given(points)
def test_no_front_member_is_dominated_and_every_other_is_dominated_by_a_front_member(cloud) -> None:
    flags = pareto_front(cloud)
    front = [point for point, on_front in zip(cloud, flags, strict=True) if on_front]
    for point, on_front in zip(cloud, flags, strict=True):
        assert any(dominates(other, point) for other in front) != on_front
        assert any(dominates(other, point) for other in cloud) != on_front


@given(points, st.randoms(use_true_random=False))
def test_order_does_not_matter(cloud, random) -> None:
    order = list(range(len(cloud)))
    random.shuffle(order)
    shuffled = pareto_front([cloud[index] for index in order])
    assert shuffled == [pareto_front(cloud)[index] for index in order]


@given(points)
def test_duplicates_share_their_fate(cloud) -> None:
    assert pareto_front(cloud + cloud) == pareto_front(cloud) * 2


@given(st.tuples(st.integers(), st.integers()))
def test_nothing_dominates_itself(point) -> None:
    assert not dominates(point, point)
