"""Studies of Vision Longformer (Zhang et al. 2021, arXiv 2103.15358), Tables 2, 3, 11 and 12 and Figure 10."""

from typing import Any

from halonet.studies.study import Row, Statement, Study

PAPER = "Zhang et al. 2021 (arXiv 2103.15358)"
SMALL: dict[str, Any] = {
    "model.name": "vil_nano_32",
    "model.overrides.position": "absolute",
    "data.test_fraction": 0.5,
    "data.batch_size": 16,
    "optim.name": "adamw",
    "optim.lr": 1e-3,
    "optim.weight_decay": 0.05,
    "optim.warmup_epochs": 3.0,
    "optim.label_smoothing": 0.0,
    "trainer.max_epochs": 40,
}
SMALL_NOTE = "RandAugment, mixup, cutmix and erasing are left out"
RELATIVE = {"model.overrides.position": "relative"}
ONE_SIZE = "the small model has one size; the rows of Tiny are run"
TWO_STAGES = "the small model has two stages, which the rows of three stages stand for"
FLAT = "the small model has two stages, which no setting makes one"
DEIT = "DeiT's own position embedding is no model here"
# 224 pixels: windows of 15 leave local attention to all stages but the last two (section 3.2).
_LOCAL = {3: ["vil", "full", "full"], 4: ["vil", "vil", "full", "full"]}
_MOVED = {"1_10_1": [1, 3], "2_9_1": [2, 2], "1_1_9_1": [1, 3], "1_2_8_1": [2, 2]}  # blocks of the small stages


def _multi_scale(kind: str, depths: str, published: float) -> Row:
    """A line of Table 2: attention and position ("Full-APE", "ViL-APE", "ViL-RPB") at depths such as 1_10_1."""
    attention, position = kind.split("-")
    stages = depths.count("_") + 1
    local = {"model.overrides.attention": _LOCAL[stages]} if attention == "ViL" else {}
    small: dict[str, Any] | str = TWO_STAGES
    if stages == 3:
        small = {
            "model.overrides.attention": "full" if attention == "Full" else ["vil", "full"],
            "model.overrides.depth": _MOVED[depths],
        }
    return Row(
        name=f"{kind.lower()}-{depths.replace('_', '-')}",
        label=f"{attention}-{depths.replace('_', ',')}-{position}",
        published=(published,),
        settings=RELATIVE if position == "RPB" else {},
        paper={"model.name": f"msvit_small_{depths}_224", **local},
        small=small,
    )


TABLE_2 = Study(
    name="vil_table2",
    title="Flat against multi-scale, full against local attention, absolute against relative position",
    source=f"{PAPER}, Table 2, section 3.1 and 3.2",
    recipe="vil_imagenet",
    baselines={"": "full-ape-2-9-1"},
    small_settings=SMALL,
    rows=[
        Row(name="deit-small", label="DeiT-Small / 16", published=(79.9,), paper=DEIT, small=FLAT),
        *(
            Row(
                name=f"evit-{pool}",
                label=f"E-ViT(full/16)-APE, {label}",
                published=(published,),
                paper={"model.name": "evit_small_224", "model.overrides.global_pool": pool},
                small=FLAT,
            )
            for pool, label, published in (("token", "class token", 80.4), ("avg", "average", 80.7))
        ),
        *(
            _multi_scale(kind, depths, published)
            for kind, values in (
                ("Full-APE", (81.7, 81.7, 81.9, 81.9)),
                ("ViL-APE", (81.6, 81.8, 81.8, 82.0)),
                ("ViL-RPB", (81.9, 82.3, 82.2, 82.4)),
            )
            for depths, published in zip(_MOVED, values, strict=True)
        ),
    ],
    statements=[
        Statement("relative is better than absolute position", "vil-rpb-2-9-1", "vil-ape-2-9-1", 0.5),
        Statement("so with one block in the first stage", "vil-rpb-1-10-1", "vil-ape-1-10-1", 0.3),
        Statement("local attention is as good as full", "vil-ape-2-9-1", "full-ape-2-9-1", 0.1),
    ],
    small_notes=[SMALL_NOTE, "1,10,1 and 2,9,1 are stages of 1 and 3, 2 and 2 blocks"],
)

# Settings of all stages, those of the first half alone (partial), and the small model's. Values of Table 15.
_KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "Full": ({}, {"attention": "full"}),
    "ViL": ({"attention": _LOCAL[4]}, {"attention": ["vil", "full"]}),
    "Global": (
        {"attention": "global", "num_global": [256, 256, 64, 16]},
        {"attention": "global", "num_global": [16, 4]},
    ),
    "Linformer": ({"attention": "linformer"}, {"attention": "linformer", "num_features": 16}),
    "SRA/64": (
        {"attention": "sra", "reduction": [16, 8, 4, 2]},
        {"attention": "sra", "reduction": [4, 2]},
    ),
    "SRA/32": (
        {"attention": "sra", "reduction": [8, 4, 2, 1]},
        {"attention": "sra", "reduction": [2, 1]},
    ),
    "Performer": ({"attention": "performer"}, {"attention": "performer", "num_features": 32}),
}
_COLUMNS = (("Tiny", "1_1_9_1"), ("Tiny", "1_2_8_1"), ("Small", "1_1_9_1"), ("Small", "1_2_8_1"))
_MECHANISMS = {
    "Full": (76.06, 75.60, 81.93, 81.91),
    "ViL": (76.18, 75.98, 81.79, 81.99),
    "Global": (71.52, 72.00, 79.17, 78.97),
    "Linformer": (74.71, 74.74, 81.19, 80.98),
    "SRA/64": (69.08, 68.78, 76.35, 76.37),
    "SRA/32": (73.22, 73.2, 79.96, 79.9),
    "Performer": (71.12, 73.09, 78.81, 78.72),
    "Par-Global": (75.32, 75.4, 81.6, 81.46),
    "Par-Linformer": (75.56, 75.33, 81.66, 81.79),
    "Par-SRA/32": (75.2, 75.26, 81.62, 81.61),
    "Par-Performer": (75.34, 75.93, 81.72, 81.72),
}


def _mechanism(kind: str, size: str, depths: str, published: float) -> Row:
    whole, small = (dict(options) for options in _KINDS[kind.removeprefix("Par-")])
    if kind.startswith("Par-"):
        whole["attention"] = [whole["attention"]] * 2 + ["full"] * 2
        small["attention"] = [small["attention"], "full"]
    small["depth"] = _MOVED[depths]
    column = f"{size} {depths.replace('_', ',')}"
    return Row(
        name=f"{size}-{depths.replace('_', '-')}-{kind.replace('/', '')}".lower(),
        label=kind,
        published=(published,),
        series=column,
        paper={
            "model.name": f"msvit_{size.lower()}_{depths}_224",
            **{f"model.overrides.{name}": value for name, value in whole.items()},
        },
        small=ONE_SIZE if size == "Small" else {f"model.overrides.{name}": value for name, value in small.items()},
    )


TABLE_3 = Study(
    name="vil_table3",
    title="Attention mechanisms in multi-scale vision transformers",
    source=f"{PAPER}, Table 3, section 3.3; Table 15",
    recipe="vil_imagenet",
    baselines={
        f"{size} {depths.replace('_', ',')}": f"{size}-{depths.replace('_', '-')}-full".lower()
        for size, depths in _COLUMNS
    },
    small_settings=SMALL,
    rows=[
        _mechanism(kind, *column, _MECHANISMS[kind][index])
        for index, column in enumerate(_COLUMNS)
        for kind in _MECHANISMS
    ],
    statements=[
        Statement("ViL is better than Linformer", "tiny-1-2-8-1-vil", "tiny-1-2-8-1-linformer", 1.24),
        Statement("ViL is better than spatial reduction", "tiny-1-2-8-1-vil", "tiny-1-2-8-1-sra32", 2.78),
        Statement("ViL is better than the Performer", "tiny-1-2-8-1-vil", "tiny-1-2-8-1-performer", 2.89),
        Statement("ViL is better than global tokens alone", "tiny-1-2-8-1-vil", "tiny-1-2-8-1-global", 3.98),
        Statement(
            *("full attention in the last two stages helps", "tiny-1-2-8-1-par-performer", "tiny-1-2-8-1-performer"),
            2.84,
        ),
    ],
    notes=[
        "absolute position in all rows",
        "Full of Small was trained with batch 256, by the note of Table 13; here as the others",
    ],
    small_notes=[SMALL_NOTE, "1,1,9,1 and 1,2,8,1 are stages of 1 and 3, 2 and 2 blocks"],
)


def _embedding_rows(size: str, published: dict[str, tuple[float | None, float | None]]) -> list[Row]:
    """Table 11: what follows the patches, with the class token and the average before the classifier."""
    rows = []
    for pool, column in (("token", 0), ("avg", 1)):
        for name, label in (
            ("deit", "DeiT/16"),
            ("layernorm", "+ LayerNorm"),
            ("position", "+ LayerNorm + 2D position"),
            ("position-alone", "+ 2D position, no LayerNorm"),
        ):
            runs = name.startswith("position")
            settings: dict[str, Any] = {"model.overrides.global_pool": pool}
            settings |= {"model.overrides.patch_norm": False} if name == "position-alone" else {}
            of_small = {
                "model.overrides.attention": "full",
                "model.overrides.num_global": [1, 1],
                **settings,
            }
            if published[name][column] is None and name != "position-alone":
                continue
            rows.append(
                Row(
                    name=f"{size.lower()}-{name}-{pool}",
                    label=f"{label}, {'class token' if pool == 'token' else 'average'}",
                    published=(published[name][column],),
                    series=size,
                    paper={"model.name": f"evit_{size.lower()}_224", **settings} if runs else DEIT,
                    small=ONE_SIZE if size == "Small" else of_small if runs else DEIT,
                    note="not of the table: tells what the LayerNorm brings" if name == "position-alone" else "",
                )
            )
    return rows


TABLE_11 = Study(
    name="vil_table11",
    title="LayerNorm and 2D position after the patches of a flat transformer",
    source=f"{PAPER}, Table 11, appendix B.1",
    recipe="vil_imagenet",
    baselines={"Tiny": "tiny-position-token", "Small": "small-position-token"},
    small_settings=SMALL,
    rows=[
        *_embedding_rows(
            "Tiny",
            {
                "deit": (72.2, None),
                "layernorm": (72.91, 73.36),
                "position": (73.21, 73.09),
                "position-alone": (None, None),
            },
        ),
        *_embedding_rows(
            "Small",
            {
                "deit": (79.8, None),
                "layernorm": (80.33, 80.32),
                "position": (80.44, 80.75),
                "position-alone": (None, None),
            },
        ),
    ],
    statements=[Statement("the LayerNorm helps", "tiny-position-token", "tiny-position-alone-token")],
    small_notes=[SMALL_NOTE, "two stages of full attention with a class token each, not a flat model"],
)


def _pooling_rows(size: str, published: tuple[float, ...]) -> list[Row]:
    cells = [(depths, pool) for depths in ("1,2,8,1", "1,1,8,2") for pool in ("token", "avg")]
    rows = []
    for (depths, pool), value in zip(cells, published, strict=True):
        settings = {"model.overrides.global_pool": pool}
        small: dict[str, Any] = {
            **settings,
            "model.overrides.num_global": [1, 1 if pool == "token" else 0],
            "model.overrides.attention": ["vil", "full"],
            "model.overrides.depth": [3, 1] if depths == "1,2,8,1" else [2, 2],
        }
        rows.append(
            Row(
                name=f"{size.lower()}-{depths.replace(',', '-')}-{pool}",
                label=f"ViL-{depths}-APE, {'class token' if pool == 'token' else 'average'}",
                published=(value,),
                series=size,
                paper={
                    **settings,
                    "model.name": f"msvit_{size.lower()}_1_2_8_1_224",
                    "model.overrides.depth": [int(depth) for depth in depths.split(",")],
                    "model.overrides.attention": _LOCAL[4],
                    "model.overrides.num_global": [1, 1, 1, 1 if pool == "token" else 0],
                },
                small=ONE_SIZE if size == "Small" else small,
            )
        )
    return rows


TABLE_12 = Study(
    name="vil_table12",
    title="Class token against average before the classifier",
    source=f"{PAPER}, Table 12, appendix B.1",
    recipe="vil_imagenet",
    baselines={"Tiny": "tiny-1-2-8-1-token", "Small": "small-1-2-8-1-token"},
    small_settings=SMALL,
    rows=[
        *_pooling_rows("Tiny", (75.72, 75.98, 76.18, 76.25)),
        *_pooling_rows("Small", (81.65, 81.99, 82.12, 82.08)),
    ],
    statements=[
        Statement(
            "the average is better where the last stage has one block", "tiny-1-2-8-1-avg", "tiny-1-2-8-1-token", 0.26
        ),
        Statement("two blocks in the last stage are better", "tiny-1-1-8-2-avg", "tiny-1-2-8-1-avg", 0.27),
    ],
    small_notes=[SMALL_NOTE, "1,2,8,1 and 1,1,8,2 are stages of 3 and 1, 2 and 2 blocks"],
)

FIGURE_10 = Study(
    name="vil_figure10",
    title="Training by random shifting",
    source=f"{PAPER}, Figure 10, appendix D",
    recipe="vil_imagenet",
    baselines={"": "eight"},
    small_settings=SMALL,
    rows=[
        Row(
            name=name,
            label=label,
            published=(None,),
            settings={"model.random_shift": shift},
            paper={"model.name": "vil_tiny_224"},
            x=100 * shift,
            small_x=100 * shift,
            note="a picture; the text gives no value, and not the model's size",
        )
        for name, label, shift in (
            ("eight", "eight neighbour chunks", 0.0),
            ("half", "random shift, switch at 50 %", 0.5),
            ("paper", "random shift, switch at 75 %", 0.75),
            ("always", "random shift to the end", 1.0),
        )
    ],
    statements=[Statement("a switch at 75 % is slightly better than eight neighbours", "paper", "eight")],
    axis="steps with random shifting (%)",
    notes=["the figure's other times of the switch are not in the text; 50 % and 100 % are ours"],
    small_notes=[SMALL_NOTE],
)

STUDIES = (TABLE_2, TABLE_3, TABLE_11, TABLE_12, FIGURE_10)
