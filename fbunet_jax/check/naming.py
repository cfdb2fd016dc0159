"""How the images and labels of a folder are called: what their names may mean, ranked by what then pairs.

Heuristics suggest patterns (`fbunet_jax.check.naming_candidates`); each is then read by the folder layout itself, and
ranked by what pairs there. Two readings that pair equally well are a question for the user.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from fbunet_jax.check.filenames import FileNames, is_part, list_names, listed
from fbunet_jax.check.habits import FEWEST_GROUPS, object_files, page_count, page_labels, tool_of
from fbunet_jax.check.naming_candidates import Candidate, by_words, without_words
from fbunet_jax.config import FilesConfig
from fbunet_jax.data.layouts.folder import IMAGE_FOLDERS, list_pairs
from fbunet_jax.data.layouts.pairing import Pairs, pair
from fbunet_jax.errors import UserError
from fbunet_jax.user_files import composed

FEWEST = 3
_MOST_VERIFIED = 24


@dataclass(frozen=True)
class Reading:
    """One way to read the names of a folder, and what pairs.

    Attributes:
      files: `[files]` of dataset.toml.
      tool: the tool or the habit that names files like this.
      pairs: number of images with a label.
      unlabelled: images without one, below the folder.
      unpaired: labels without an image.
      unnamed: images that are neither.
      example: the files of the first image, and its first label.
      notes: what else is worth knowing, in sentences.
      evidence: how many words say so.
      identity: the files that pair: readings that pair the same files are one.
      seen: all files that a pattern describes, and those that are passed over beside them, below the folder.
    """

    files: FilesConfig
    tool: str
    pairs: int
    unlabelled: tuple[str, ...] = ()
    unpaired: tuple[str, ...] = ()
    unnamed: tuple[str, ...] = ()
    example: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    evidence: int = 0
    identity: frozenset[tuple[Path, ...]] = field(default=frozenset(), repr=False)
    seen: frozenset[str] = field(default=frozenset(), repr=False)

    @property
    def left(self) -> int:
        """Number of files that do not pair."""
        return len(self.unlabelled) + len(self.unpaired) + len(self.unnamed)

    @property
    def has_parts(self) -> bool:
        """Whether names say what is for training and what for test."""
        return any("{split}" in each for each in self.files.image_patterns)


@dataclass(frozen=True)
class NamingProposal:
    """What the names in a folder may mean.

    Attributes:
      readings: the best; several if they pair equally well.
      names: all that lies in the folder.
    """

    readings: tuple[Reading, ...]
    names: FileNames


def propose_naming(root: Path) -> NamingProposal:
    """Return how the images and labels of a folder may be called, best first.

    Folders named images/ and labels/, or raw/ and label/, need no patterns if their files pair by name.

    Args:
      root: the folder.
    """
    names = list_names(root)
    plain = read_as(root, FilesConfig()) if any((root / name).is_dir() for name in IMAGE_FOLDERS) else None
    specials = [*object_files(names.files), *page_labels(root, names.files)]
    found = _verified(root, (Candidate(each, len(names.files), 4) for each in specials))
    if not found:
        found = _verified(root, by_words(names.files))
    if plain and plain.pairs and (not found or 2 * plain.pairs >= found[0].pairs):
        complete = plain.left and found and found[0].pairs >= plain.pairs and not found[0].left
        if not complete:
            return NamingProposal((noted(plain, names),), names)
    if not found:
        found = _verified(root, without_words(names.files))
    return NamingProposal(tuple(noted(_without_parts(root, each), names) for each in found), names)


def _without_parts(root: Path, reading: Reading) -> Reading:
    """Return a reading that leaves out the images of parts of a fold that have no labels at all."""
    *folders, _ = (reading.files.image_patterns or ("",))[0].split("/")
    place = next((place for place, each in enumerate(folders) if each.startswith("{")), -1)
    if place < 0 or not reading.unlabelled:
        return reading
    paired = {_below(root, files[0]).split("/")[place] for files in reading.identity if len(files) > 1}
    lacking = {each.split("/")[place] for each in reading.unlabelled}
    if not all(map(is_part, lacking)) or lacking & paired:
        return reading
    shown = ", ".join(f"{each}/" for each in sorted(lacking))
    note = f"{shown}: no labels, so these images are left out (sparse = true). Give them to fbunet predict."
    again = read_as(root, replace(reading.files, sparse=True), reading.evidence)
    return replace(again, notes=(note,)) if again else reading


def noted(reading: Reading, names: FileNames) -> Reading:
    """Return a reading with notes on files that it does not use, and on tiles that are not grouped."""
    notes = [*reading.notes]
    patterns = (*reading.files.image_patterns, reading.files.labels)
    place, own = next(
        ((place, part) for place, part in enumerate(patterns[0].split("/")[:-1]) if is_part(part)),
        (0, ""),
    )
    there = {file.parts[place] for file in names.files if len(file.parts) > place + 1} if own else set()
    folders = {file.parts[:-1] for file in names.files}
    labels = patterns[-1].split("/")[:-1]
    lacking = {each for each in there if tuple(each if part == own else part for part in labels) not in folders}
    parts = sorted(each for each in lacking - {own} if is_part(each))
    for folder in parts:
        notes.append(f"{folder}/ has no labels: train on {own}/, and give the images of {folder}/ to fbunet predict.")
    unused = [
        file.shown
        for file in names.files
        if file.shown not in reading.seen and not (parts and file.parts[place] in parts)
    ]
    if unused:
        count = f"{len(unused)} other image files are" if len(unused) > 1 else "1 other image file is"
        notes.append(
            f"{count} not used ({listed(unused)}). If labels or channels are among them, say in [files], or with "
            "--images and --labels of init, how they are called."
        )
    if reading.tool == "QuPath" and not any("{group}" in each for each in patterns):
        notes.append(
            "There are fewer than 3 slides, so each tile is a group of its own, and tiles of one slide are in training "
            "and test at once: scores will be better than those of new slides."
        )
    return replace(reading, notes=(*notes, *_of_folders(reading, names)))


def _of_folders(reading: Reading, names: FileNames) -> Iterator[str]:
    """Yield what becomes of folders that differ from image to image and are neither groups nor parts of a fold."""
    *folders, _ = (reading.files.image_patterns or ("",))[0].split("/")
    place = next((place for place, each in enumerate(folders) if each.startswith(("{}", "{:d}"))), -1)
    if place < 0 or any("{group}" in each for each in folders):
        return
    alike = [file.parts for file in names.files if file.shown in reading.seen and len(file.parts) == len(folders) + 1]
    found = sorted({parts[place] for parts in alike})
    if all(map(is_part, found)):
        shown = ", ".join(f"{each}/" for each in found)
        yield f"{shown}: not kept as parts of a fold, which needs labels for training and test. They are divided anew."
    elif 1 < len(found) < FEWEST_GROUPS and reading.pairs > len(found):
        yield (
            "There are fewer than 3 folders, so each image is a group of its own, and images of one folder are in "
            "training and test at once: if a folder is an animal or a film, scores will be better than for new ones."
        )


def lacks_pages(root: Path, files: FilesConfig) -> bool:
    """Say whether a stack has pages without a label, where every page has a label file of its own.

    Raises:
      DataError: there is no image or no label, or a pattern cannot be used.
    """
    naming, listing = list_pairs(root, files)
    pairs = pair(naming, listing)
    together = zip(pairs.images, pairs.labels, strict=True)
    return naming.pages_in_labels and any(page_count(image.files[0]) > len(labels) for image, labels in together)


def read_as(root: Path, files: FilesConfig, evidence: int = 0) -> Reading | None:
    """Return what pairs if the files of a folder are called like this; None if there is no image or no label."""
    try:
        naming, listing = list_pairs(root, files)
    except UserError:
        return None
    pairs = pair(naming, listing)
    left: dict[str, list[str]] = defaultdict(list)
    for fault in (*listing.faults, *pairs.faults):
        kind = fault.kind if fault.kind in ("missing-label", "missing-image") else "other"
        folder = Path(fault.file).is_dir()  # which holds a file whose name cannot be printed
        left[kind].append(fault.found if folder else _below(root, Path(fault.file)))
    return Reading(
        files,
        tool_of(files if files.images else FilesConfig(naming.images[0].text, naming.labels.text)),
        len(pairs.images),
        tuple(left["missing-label"]),
        tuple(left["missing-image"]),
        tuple(left["other"]),
        tuple(_below(root, file) for file in (*pairs.images[0].files, pairs.labels[0][0].path)) if pairs.images else (),
        (),
        evidence,
        _identity(pairs, files),
        frozenset(
            composed(_below(root, path))
            for path in (
                *(file.path for files in listing.files for file in files),
                *listing.others,
                *(Path(fault.file) for fault in listing.faults),
            )
        ),
    )


def _below(root: Path, file: Path) -> str:
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)


def _identity(pairs: Pairs, files: FilesConfig) -> frozenset[tuple[Path, ...]]:
    together = zip(pairs.images, pairs.labels, strict=True)
    found = {(*image.files, *(label.path for label in labels)) for image, labels in together}
    return frozenset(found | {(Path(str(files.first_page)),)})


def _verified(root: Path, candidates: Iterable[Candidate]) -> list[Reading]:
    """Return the readings that pair most and leave fewest files over; several if nothing says which is meant."""
    found: dict[frozenset[tuple[Path, ...]], Reading] = {}
    ordered = sorted(candidates, key=lambda each: (-each.estimate, -each.evidence))
    for candidate in ordered[:_MOST_VERIFIED]:
        if any(each.pairs > candidate.estimate for each in found.values()):
            break
        reading = read_as(root, candidate.files, candidate.evidence)
        if reading and _holds(reading):
            known = found.get(reading.identity)
            if known is None or known.left > reading.left:
                found[reading.identity] = reading
    ranks = {each: (each.pairs, -each.left, each.evidence) for each in found.values()}
    best = [each for each, rank in ranks.items() if rank == max(ranks.values())]
    return sorted(best, key=_likelihood)


def _likelihood(reading: Reading) -> tuple[bool, tuple[str, ...], str]:
    """Return what orders readings between which the user chooses: what is added to a name marks a label."""
    images, labels = reading.files.image_patterns, reading.files.labels
    longer = len(Path(labels).stem) > len(Path(images[0]).stem)
    return not longer, images, labels


def _holds(reading: Reading) -> bool:
    """Say whether enough pairs: some names always fit each other by chance."""
    if not reading.evidence and len(reading.unlabelled) > reading.pairs:
        return False
    most = reading.pairs >= FEWEST and len(reading.unpaired) <= reading.pairs
    return most or (reading.pairs > 0 and not reading.left)
