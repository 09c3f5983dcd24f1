"""From names to files: what is never shared where `A` and `a` are one, and folders that are in each other."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proa.shares import tree
from proa.shares.nodes import Node, Root
from proa.shares.protocol import Refused
from proa.shares.tree import Allowed, Tree


def look_up(shares: Tree, path: Path) -> Node:
    node = shares.nodes.top
    for name in os.fsencode(path).split(b"/")[1:]:
        node, _ = shares.look_up(node, name)
    return node


@pytest.mark.parametrize("folds", (True, False))
def test_another_case_leads_to_nothing_that_is_kept_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folds: bool
) -> None:
    """Neither to what is there, nor to what is not there yet: who makes it would have it."""
    monkeypatch.setattr(tree, "FOLDS", folds)
    shares = Tree(Allowed((Root(os.fsencode(tmp_path)),), (os.fsencode(tmp_path / ".Ssh"),)))
    top = look_up(shares, tmp_path)
    for name, kept_back in ((b".Ssh", True), (b".ssh", folds), (b".SSH", folds), (b".ssh2", False)):
        assert shares.hides(top, name) == kept_back
        if kept_back:
            with pytest.raises(Refused):
                shares.guard(top, name)
        else:
            shares.guard(top, name)


def test_a_share_in_a_share_is_found_in_any_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be one for reading only. The disk of this test knows the case: the name is made twice."""
    monkeypatch.setattr(tree, "FOLDS", True)
    for name in ("inner", "INNER"):
        (tmp_path / name).mkdir(exist_ok=True)
    roots = Root(os.fsencode(tmp_path)), Root(os.fsencode(tmp_path / "inner"), writable=False)
    shares = Tree(Allowed(roots))
    assert look_up(shares, tmp_path / "INNER").root == roots[1]


def test_a_share_in_a_share_is_found_by_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has short ones beside the long ones."""
    monkeypatch.setattr(tree, "FOLDS", True)
    (tmp_path / "inner").mkdir()
    roots = Root(os.fsencode(tmp_path)), Root(os.fsencode(tmp_path / "inner"), writable=False)
    shares = Tree(Allowed(roots))
    top = look_up(shares, tmp_path)
    folder = shares.folder(top)
    node, _ = shares.take_in(top, b"INNER~1", folder, tree.beneath.status(folder, b"inner"))
    assert node.root == roots[1]


def test_folders_that_were_seen_in_each_other(tmp_path: Path) -> None:
    """As they are where both sides move them at once; each that is not in the other any more is found."""
    (tmp_path / "a/b").mkdir(parents=True)
    shares = Tree(Allowed((Root(os.fsencode(tmp_path)),)))
    a, b = look_up(shares, tmp_path / "a"), look_up(shares, tmp_path / "a/b")
    shares.nodes.found(a.identity, (b, b"a"))
    shares.nodes.let_go_all()
    assert shares.folder(b) is b.folder and shares.folder(a) is a.folder
    (tmp_path / "a").rename(tmp_path / "elsewhere")
    shares.nodes.let_go_all()
    for node in (b, a):
        with pytest.raises(Refused):
            shares.folder(node)
