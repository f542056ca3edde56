"""Finds the images and the masks in a folder, by the names of the folders in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from unetzoo.data.annotations import suffixes as annotation_suffixes
from unetzoo.data.layouts.naming import FOLDERS, plain_name, role, split_and_role
from unetzoo.data.listing import SPLITS, Tree, is_hidden
from unetzoo.errors import ConfigError
from unetzoo.images import IMAGE_SUFFIXES


@dataclass(frozen=True)
class Places:
    """Two folders whose files go together, by their paths inside the data set.

    Attributes:
        images: folder of the images; "" is the data set itself.
        masks: folder of the masks; None if there is none.
    """

    images: str
    masks: str | None


def places(tree: Tree, kind: str = "masks") -> dict[str, tuple[str, Places]]:
    """Return split → the name of its folder, and its places; the split is "" if there are none.

    Args:
        tree: the data set.
        kind: the role of the folder that goes with the images: "masks" or "instances"; "" for none.

    Returns:
        Empty if no folder has a name such as ``images``.

    Raises:
        ConfigError: images without masks, several folders for one role, or a split twice.
    """
    found = [group for group in (_in_splits(tree, kind), _beside(tree, kind), _joined(tree, kind)) if group]
    if len(found) > 1:
        both = " and in ".join(next(iter(group.values())).images for group in found)
        raise ConfigError(f"{str(tree.path)!r} has images in {both}: move one away")
    named = found[0] if found else {}
    splits = {name: SPLITS.get(name.lower(), name) for name in named}
    if len({*splits.values()}) < len(named):
        raise ConfigError(f"{str(tree.path)!r} has the same split twice: {', '.join(named)}; keep one name")
    return {splits[name]: (name, place) for name, place in named.items()}


def _in_splits(tree: Tree, kind: str) -> dict[str, Places]:
    """Return the places of train/images and train/masks, by the name of the split's folder."""
    found = {}
    for name in tree.inside():
        if name.lower() in SPLITS and any(role(inner) == "images" for inner in tree.inside(name)):
            may_lack = SPLITS[name.lower()] == "test"
            found[name] = Places(
                _one(tree, name, "images") or "", _one(tree, name, kind, may_lack=may_lack) if kind else None
            )
    return found


def _beside(tree: Tree, kind: str) -> dict[str, Places]:
    """Return the places of images and masks, or of images/train and masks/train."""
    images = _one(tree, "", "images")
    if images is None:
        return {}
    mask = _one(tree, "", kind) if kind else None
    inside = tree.inside(images)
    direct = (inner for inner in tree.under(images) if "/" not in inner and not is_hidden(inner))
    if not inside or not all(name.lower() in SPLITS for name in inside) or next(direct, None) is not None:
        return {"": Places(images, mask)}
    return {name: Places(f"{images}/{name}", _split_of_masks(tree, mask, name)) for name in inside}


def _split_of_masks(tree: Tree, masks: str | None, name: str) -> str | None:
    """Return the folder of a split's masks; None if it is missing for a test split."""
    if masks is None:
        return None
    split = SPLITS[name.lower()]
    alike = [inner for inner in tree.inside(masks) if SPLITS.get(inner.lower()) == split]
    if not alike and split == "test":
        return None
    return f"{masks}/{alike[0] if len(alike) == 1 else name}"


def _joined(tree: Tree, kind: str) -> dict[str, Places]:
    """Return the places of train_images and train_masks, or of train and trainannot."""
    by_role: dict[str, dict[str, list[str]]] = {"": {}, **{known: {} for known in FOLDERS}}
    for name in tree.inside():
        split, of_name = split_and_role(name)
        if split:
            by_role[of_name].setdefault(split, []).append(name)
    found = {}
    for split, of_masks in by_role[kind or "masks"].items():
        of_images = by_role["images"].get(split) or by_role[""].get(split) or []
        if len(of_images) > 1 or len(of_masks) > 1:
            raise _several(tree, "", [*of_images] if len(of_images) > 1 else of_masks)
        if of_images:
            found[split] = Places(of_images[0], of_masks[0] if kind else None)
    return found


def _one(tree: Tree, parent: str, kind: str, *, may_lack: bool = False) -> str | None:
    """Return the only folder of a role.

    Raises:
        ConfigError: there are several, or there is none of masks.
    """
    names = [name for name in tree.inside(parent) if role(name) == kind]
    names.sort(key=lambda name: FOLDERS[kind].index(plain_name(name)))
    start = f"{parent}/" if parent else ""
    if len(names) > 1:
        names = [name for name in names if has_masks(tree.under(start + name))] or names
    if len(names) > 1:
        raise _several(tree, start, names)
    if names:
        return start + names[0]
    roles = {role(name): name for name in tree.inside(parent)}
    if kind == "masks" and not may_lack and "instances" not in roles:
        raise ConfigError(
            f"{str(tree.path / parent)!r} has {roles['images']}/, but no masks/ (or labels/) next to it, and no "
            "instances/ of label images"
        )
    return None


def has_masks(files: Mapping[str, object] | Iterable[str]) -> bool:
    """Return whether any of the files may be a mask, or there are no files."""
    return not files or any(may_be_mask(inner) for inner in files)


def may_be_mask(inner: str) -> bool:
    """Return whether a file has the suffix of an image or of annotations, and is not hidden."""
    stem, dot, suffix = inner.rpartition(".")
    ending = f"{dot}{suffix.lower()}"
    return bool(stem) and not is_hidden(inner) and (ending in IMAGE_SUFFIXES or ending in annotation_suffixes())


def _several(tree: Tree, start: str, names: list[str]) -> ConfigError:
    both = " and ".join(f"{name}/" for name in names)
    return ConfigError(
        f"{str(tree.path / start)!r} has both {both}: move one away, or say which are the masks, for example "
        f"masks='{start}{names[0]}/{{name}}.png'"
    )
