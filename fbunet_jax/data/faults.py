"""What is wrong with a data set: the file, what was found, what was expected, and the remedy."""

from pathlib import Path

from fbunet_jax.errors import DataError

EXPECTED = {
    # files
    "missing-file": "Every file that the data set is made of exists and can be opened.",
    "empty-file": "A file holds data.",
    "damaged-file": "A file is complete and can be decoded.",
    "wrong-suffix": "The suffix of a file says what kind of file it is.",
    "foreign-file": "The folders hold images and labels of the types that can be read, and nothing else.",
    "file-size": "A file fits into the memory that is available, and its bytes can hold what it declares.",
    "file-set": "A file holds its image itself, not a part of a set of files.",
    "file-name": "The name of a file is text in UTF-8.",
    "same-name": "One image and one label of each name.",
    "unnamed-file": "The name of every image file says whether it is an image or a label.",
    "missing-label": "Every image has a label.",
    "missing-image": "Every label has an image.",
    "missing-channel": "Every image has a file for each channel.",
    "missing-page": "Every page has a label, or files.sparse says that only some have.",
    # arrays
    "array": "An image is an array of numbers, [H, W] or [H, W, C], and its label one of [H, W].",
    "item-name": "Names and groups are text that can be printed, or whole numbers, one for each image.",
    # images
    "pair-size": "An image and its label have the same pages, height and width.",
    "channel-size": "The channel files of an image have the same size and type.",
    "not-finite": "Every intensity is a finite number.",
    "no-data": "Every intensity is a measurement; none stands for no data, or data.no_data keeps it.",
    "image-type": "Intensities are 8, 16 or 32-bit integers or floating-point numbers.",
    "images-differ": "All images have the same number of channels and the same type.",
    "colour-mode": "An image is grey or RGB; other colour spaces are converted first.",
    "fax": "A file is not fax-compressed: what reads it passes over damage.",
    "palette": "The values of an image are intensities, not indices into a palette.",
    "inverted": "Zero is black.",
    "orientation": "The pixels are stored as they are shown.",
    "transparency": "No pixel is transparent, or data.alpha says what the alpha channel is.",
    "several-series": "A file holds one image series.",
    "axes-unknown": "The axes of a file with more than two dimensions are named.",
    "axes-setting": "data.axes names each axis once, Y and X among them.",
    "cut": "data.cut divides the height and width of every image.",
    # labels
    "label-colours": "A label image has one channel: the class of each pixel.",
    "label-type": "The values of a label are whole numbers.",
    "label-jpeg": "Labels are stored without loss; JPEG compression changes values.",
    "label-values": "Every value of a label is that of a class, or the ignore value.",
    "label-mask": "Every value of a label is that of a class, or the ignore value.",
    "label-edges": "Every value of a label is that of a class, or the ignore value.",
    "label-instances": "Every value of a label is that of a class; objects are not numbered.",
    "class-absent": "Every class occurs in at least one label.",
    "unlabelled-part": "The training and the validation part of every fold have labelled pixels.",
    # description and settings
    "description": "dataset.toml or dataset.json can be read, and agrees with the settings.",
    "classes-undescribed": "The classes and their values are described.",
    "classes": "From 2 to 255 classes, each with a value of its own.",
    "group-pattern": "data.group_pattern finds the group in the name of every file.",
    "folds": "There are groups enough for the folds.",
    "split": "The fold scheme is split where, and only where, names say what is for training and for test.",
    "part-size": "The images of one part of a fold have fewer than 2^31 pixels.",
    "settings": "The settings of the network fit the images.",
    # warnings
    "description-of-others": "The description of a file is that of its own pages.",
    "constant-image": "An image shows something.",
    "saturated": "Fewer than 1 % of the intensities lie at the largest value that the camera can store.",
    "duplicate": "No image is there twice.",
    "near-duplicate": "Images of different groups show different things.",
    "part-without-class": "Every class occurs in the training, validation and test part of every fold.",
    "neighbours-alike": "Where neighbours in name order are alike, none of them trains while the other is tested.",
}
"""The rule that each kind of finding breaks."""


class Fault(DataError):
    """A data set cannot be used as it is.

    Attributes:
      kind: a key of `EXPECTED`.
      file: the file or folder, or empty for a setting.
      found: what was found, without the file's name.
      remedy: what to do.
    """

    def __init__(self, kind: str, file: Path | str, found: str, remedy: str) -> None:
        super().__init__(" ".join(part for part in (str(file), found, remedy) if part))
        self.kind, self.file, self.found, self.remedy = kind, str(file), found, remedy

    def __reduce__(self) -> tuple[type, tuple[str, ...]]:
        """Make it again in another process."""
        return Fault, (self.kind, self.file, self.found, self.remedy)
