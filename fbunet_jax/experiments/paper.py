"""The paper's four tables as data: which methods they compare, and what the paper measured."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One method of a table.

    Attributes:
      method: its name in this program.
      title: what it is called in the table.
      paper: the paper's IoU in %, of every class and the mean as it is printed; None for a control that it lacks.
    """

    method: str
    title: str
    paper: tuple[float, ...] | None = None


@dataclass(frozen=True)
class PaperTable:
    """One table of Shibuya & Hotta (2020).

    Attributes:
      number: of the table.
      title: what it compares.
      class_names: of the paper's numbers, in their order; those of our data set where it is the paper's.
      config: name of the bundled configuration with the paper's protocol, and with it the number of folds.
      layout: `data.layout` of the paper's images, None if they are not public.
      rows: the methods.
      notes: what a reader of the paper's numbers should know.
    """

    number: int
    title: str
    class_names: tuple[str, ...]
    config: str
    layout: str | None
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


_DROSOPHILA = ("cytoplasm", "membrane", "mitochondria", "synapse")
_MOUSE = ("cytoplasm", "membrane", "nucleus")

_CONTROLS = (
    Row("unet-wide", "U-Net, as many parameters as feedback + ConvLSTM"),
    Row("convlstm-one-round", "ConvLSTM, one round"),
    Row("convlstm-no-feedback", "ConvLSTM, two rounds without feedback"),
)

TABLES = {
    1: PaperTable(
        number=1,
        title="methods, Drosophila",
        class_names=_DROSOPHILA,
        config="drosophila",
        layout="drosophila-vnc",
        rows=(
            Row("unet", "U-Net", (92.0, 74.9, 73.1, 40.9, 70.2)),
            Row("ru-net", "RU-Net", (92.2, 75.8, 74.3, 43.2, 71.4)),
            Row("feedback-recurrent", "Feedback + recurrent convolution", (92.2, 75.1, 73.8, 37.9, 69.8)),
            Row("feedback-conv", "Feedback without ConvLSTM", (92.1, 76.0, 74.9, 38.4, 70.4)),
            Row("feedback-convlstm", "Feedback + ConvLSTM", (92.4, 76.4, 75.2, 42.3, 71.5)),
            *_CONTROLS,
        ),
    ),
    2: PaperTable(
        number=2,
        title="methods, mouse",
        class_names=_MOUSE,
        config="mouse",
        layout=None,
        rows=(
            Row("unet", "U-Net", (77.1, 33.8, 65.0, 58.6)),
            Row("ru-net", "RU-Net", (77.0, 33.8, 63.7, 57.7)),
            Row("feedback-recurrent", "Feedback + recurrent convolution", (77.1, 34.4, 64.1, 58.6)),
            Row("feedback-conv", "Feedback without ConvLSTM", (77.0, 33.8, 63.7, 58.1)),
            Row("feedback-convlstm", "Feedback + ConvLSTM", (77.1, 35.9, 65.6, 59.5)),
            *_CONTROLS,
        ),
        notes=(
            "The paper prints 57.7 as the mean of RU-Net; its three classes average 58.2.",
            "They equal those of Feedback without ConvLSTM, so they may be a misprint.",
        ),
    ),
    3: PaperTable(
        number=3,
        title="places of the ConvLSTMs, Drosophila",
        class_names=_DROSOPHILA,
        config="drosophila",
        layout="drosophila-vnc",
        rows=(
            Row("feedback-convlstm-a", "ConvLSTM at a", (92.2, 75.7, 73.5, 37.4, 69.7)),
            Row("feedback-convlstm-b", "ConvLSTM at b", (92.2, 75.3, 73.6, 42.5, 70.9)),
            Row("feedback-convlstm-c", "ConvLSTM at c", (92.1, 75.6, 74.6, 40.8, 70.8)),
            Row("feedback-convlstm-d", "ConvLSTM at d", (92.4, 75.9, 74.6, 42.1, 71.3)),
            Row("feedback-convlstm-e", "ConvLSTM at e", (92.4, 76.1, 74.6, 38.0, 70.3)),
            Row("feedback-convlstm-abde", "ConvLSTM at a, b, d, e", (92.2, 75.8, 73.1, 33.9, 68.6)),
        ),
        notes=("The paper prints 68.6 as the mean of a, b, d, e; its four classes average 68.75.",),
    ),
    4: PaperTable(
        number=4,
        title="places of the ConvLSTMs, mouse",
        class_names=_MOUSE,
        config="mouse",
        layout=None,
        rows=(
            Row("feedback-convlstm-a", "ConvLSTM at a", (77.0, 35.1, 64.6, 58.9)),
            Row("feedback-convlstm-b", "ConvLSTM at b", (77.0, 35.5, 64.5, 59.0)),
            Row("feedback-convlstm-c", "ConvLSTM at c", (76.9, 36.6, 64.4, 59.3)),
            Row("feedback-convlstm-d", "ConvLSTM at d", (76.9, 35.3, 64.5, 58.9)),
            Row("feedback-convlstm-e", "ConvLSTM at e", (77.1, 34.8, 65.1, 59.0)),
            Row("feedback-convlstm-abde", "ConvLSTM at a, b, d, e", (77.0, 33.7, 64.1, 58.2)),
        ),
    ),
}
"""By number."""
