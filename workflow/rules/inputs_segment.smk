def segmenter_model(wildcards):
    """The small segmenter of a data set; nothing where TotalSegmentator does the work."""
    if config["segmentation"]["kind"] != "small":
        return []
    return [f"results/models/{wildcards.dataset}/segmenter/train.json"]


def segmented_images(wildcards):
    """The label maps of the aligned images, where a table asks for them."""
    dataset, method, seed = wildcards.dataset, wildcards.method, wildcards.seed
    if not PLAN.is_segmented((dataset, method)):
        return []
    return [f"results/segmented/{dataset}/{method}/seed{seed}/segmented.json"]


def shown_segmentations(dataset):
    """The label maps of the aligned images of a data set, each method's with its first seed."""
    return [
        first_segmentation(*cell)
        for cell in dataset_cells(dataset)
        if PLAN.is_segmented(cell)
    ]


def first_segmentation(dataset, method):
    """The status file of a method's label maps with its first seed."""
    return f"results/segmented/{dataset}/{method}/seed{PLAN.variants[method].seeds[0]}/segmented.json"


def segmented_folders(files):
    """Method and folder of the label maps that status files are about."""
    return [[Path(path).parents[1].name, str(Path(path).parent)] for path in files]
