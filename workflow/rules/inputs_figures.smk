def figure_of(wildcards):
    """What a figure of a paper is drawn from."""
    return paper_figure(wildcards.paper, wildcards.figure)


def segmentations_in(figure, rows):
    """The label maps that some rows of a figure show."""
    return [
        first_segmentation(row.dataset, name)
        for row in rows * figure.segmented
        for name, _ in row.methods
    ]


def figure_rows(wildcards):
    """Where the results of each row of a paper's figure lie."""
    return [
        {
            "store": f"results/cases/{row.dataset}",
            "index": f"results/data/{row.dataset}",
            "aligned": [first_aligned(row.dataset, name) for name, _ in row.methods],
            "metrics": metrics_of((row.dataset, name) for name, _ in row.methods),
            "segmented": [
                str(Path(path).parent)
                for path in segmentations_in(figure_of(wildcards), [row])
            ],
        }
        for row in figure_of(wildcards).rows
    ]


def paper_pictures(paper, cells):
    """The figures of a paper that are drawn from some of these cells."""
    return [
        f"results/papers/{paper}/figure_{figure.number}.png"
        for figure in PLAN.figures(paper, cells)
    ]
