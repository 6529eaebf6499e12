"""Metrics against recorded numbers: c10* of this system, and avs_* of a sibling where the definition is the same."""

import collections

import numpy as np
import pytest

from crab_jax.metrics import (
    BinaryMasks,
    Item,
    NullMasks,
    SemanticMasks,
    avvp,
    binary,
    f_measure,
    mask_iou,
    masks,
    null_s,
    recorded_boxes,
    semantic,
)
from crab_jax.metrics.state import fixed
from crab_jax.tasks import MaskTokens, Unparsed

MASK = MaskTokens(order=(0, 1, 2, 3, 4, 5), emitted=6)
# The notes of c10a: "value tolerance: rtol 1e-5, atol 1e-6".
RTOL, ATOL = 1e-5, 1e-6


def check(case, name, got, want, *, rtol=RTOL, atol=ATOL):
    """Compares numbers that the manifest gives under `values`, where no tolerance of their own stands."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape, name
    assert (np.isnan(got) == np.isnan(want)).all(), f"{name}: got {got}, recorded {want}"
    error = np.nan_to_num(np.abs(got - want))
    worst = float((error / (atol + rtol * np.abs(np.nan_to_num(want)))).max(initial=0))
    case.note(name, worst, float(error.max(initial=0)))
    assert worst <= 1, f"{case.name}/{name}: got {got}, recorded {want}"


def check_finite(case, name, got):
    """Compares a recorded tensor where it is finite; elsewhere both have to be NaN."""
    got = np.asarray(got, np.float64)
    finite = np.isfinite(case[name])
    assert (np.isnan(got) == ~finite).all(), f"{case.name}/{name}"
    case.check(name, got, where=finite)


def binary_items(case, names):
    """Items of the binary masks, `names` in order."""
    for i, name in enumerate(names):
        yield Item(id=name, prediction=MASK, output=case[f"{name}/logits"][0], mask=case[f"{name}/gt"][0], video=str(i))


def count(metric, items):
    """The results of a metric over items."""
    for item in items:
        metric.update(item)
    return metric.result()


@pytest.mark.case("c10a")
def test_one_binary_mask(case):
    """IoU, F and S of each mask and of the batch, the curve behind F, and the mean over complete videos."""
    values, frames = case.manifest["values"], []
    variants = case.variants()
    named = {n for n in values if "mask_iou" in values[n] or n == "compute_miou_from_jsonl"}
    assert named == set(values)
    assert {*variants} == named - {"ALL_AS_ONE_BATCH", "compute_miou_from_jsonl"}
    for name in variants:
        truth = masks.foreground(case[f"{name}/gt"][0])
        probability = masks.probabilities(case[f"{name}/logits"][0])
        frames.append((probability > 0.5, truth, masks.threshold_counts(probability, truth)))
        check(case, f"{name}/mask_iou", mask_iou(probability > 0.5, truth), values[name]["mask_iou"])
        check(case, f"{name}/fmeasure", f_measure(probability, truth), values[name]["fmeasure"])
        check(case, f"{name}/metric_s", null_s(probability > 0.5), values[name]["metric_s"])
        if f"pr_curve/{name}/precision" in case:
            case.check(f"pr_curve/{name}/precision", frames[-1][2].precision())
            case.check(f"pr_curve/{name}/recall", frames[-1][2].recall())
    batch = values["ALL_AS_ONE_BATCH"]
    check(case, "batch/mask_iou", np.mean([mask_iou(p, t) for p, t, _ in frames]), batch["mask_iou"])
    check(case, "batch/fmeasure", masks.mean_f_measure([c for _, _, c in frames]), batch["fmeasure"])
    metric = count(BinaryMasks(), binary_items(case, variants))
    check(case, "batch/fmeasure as a sum", metric["f:one_threshold"], batch["fmeasure"])
    check(case, "batch/mask_iou as a sum", metric["miou"], batch["mask_iou"])

    recorded = values["compute_miou_from_jsonl"]
    videos = collections.defaultdict(lambda: {"iou": 0, "frames": 0})
    for record in recorded["records"]:
        video = videos[record["image_path"].split("/")[-3]]
        video["iou"] += fixed(record["iou"])
        video["frames"] += 1
    mean = binary.mean_over_videos(videos, frames=5)
    check(case, "compute_miou_from_jsonl", mean, recorded["result"]["miou"], rtol=1e-12, atol=0)
    case.close()


@pytest.mark.case("c10b")
def test_semantic_masks(case):
    """Sums per class over all frames, and of each frame recorded alone."""
    predicted = [semantic.class_ids(x.astype(np.float32)) for x in case["logits"]]
    classes = case["logits"].shape[1]
    groups = sorted({name.split("/")[0] for name in case.results()})
    for group in groups:
        chosen = range(len(predicted)) if group == "all" else [int(group.removeprefix("only"))]
        tables = [semantic.confusion(predicted[i], case["target"][i], classes=classes) for i in chosen]
        iou, f, occurs = (np.sum(x, axis=0) for x in zip(*map(semantic.class_scores, tables)))
        case.check(f"{group}/iou_sum_per_class", iou)
        case.check(f"{group}/fscore_sum_per_class", f)
        case.check(f"{group}/count_per_class", occurs)
        check_finite(case, f"{group}/per_image_miou", [semantic.frame_miou(t) for t in tables])
    case.close()


@pytest.mark.case("c10c")
def test_video_parsing(case):
    """Segment- and event-level F of every video; runs; precision, recall and F1."""
    values = case.manifest["values"]
    exact = {"rtol": 1e-12, "atol": 1e-12}
    for video in [v for v in case.variants() if v != "prf"]:
        matrix = {n: case[f"{video}/{n}"].astype(bool) for n in ("SO_a", "SO_v", "SO_av", "GT_a", "GT_v", "GT_av")}
        for who in ("SO", "GT"):
            assert (matrix[f"{who}_av"] == (matrix[f"{who}_a"] & matrix[f"{who}_v"])).all()
        scores = avvp.video_scores(matrix["SO_a"], matrix["SO_v"], matrix["GT_a"], matrix["GT_v"])
        for level in ("segment", "event"):
            # "audio+visual pooled" is our stream `event`: the counts of both are added first.
            ours = [scores[f"{level}/{s}"] for s in ("audio", "visual", "event", "audio_visual")]
            check(case, f"{video}/{level}_level", ours, values[video][f"{level}_level"], **exact)
    for bits, events in values["extract_event"].items():
        _, start, end = avvp.runs(np.array([[int(b) for b in bits]], bool))
        ours = [[int(s <= t < e) for t in range(len(bits))] for s, e in zip(start, end)]
        with case.exactly(f"extract_event/{bits}"):
            assert ours == events
    ours = avvp.precision_recall_f1(case["prf/X_pre"].astype(bool), case["prf/X_gt"].astype(bool))
    check(case, "prf", ours, [values["prf"][n] for n in ("Precision", "Recall", "F1")], **exact)


@pytest.mark.case("c10d")
def test_boxes(case):
    """The two forms of Complete IoU of the reference. The inputs of `iou_wh` were not recorded."""
    values, a, b = case.manifest["values"], case["boxes1"].astype(np.float64), case["boxes2"].astype(np.float64)
    exact = {"rtol": 1e-12, "atol": 1e-15}
    for name, function in (
        ("intersection_over_union", recorded_boxes.intersection_over_union),
        ("c_iou", recorded_boxes.c_iou),
    ):
        check(case, name, [function(x, y) for x, y in zip(a.tolist(), b.tolist())], values[name], **exact)
    square, line = [0.0, 0.0, 10.0, 10.0], [0.0, 5.0, 10.0, 5.0]
    check(case, "c_iou_identical", recorded_boxes.c_iou(square, square), values["c_iou_identical"], **exact)
    touching = recorded_boxes.intersection_over_union(square, [10.0, 0.0, 20.0, 10.0])
    check(case, "iou_touching", touching, values["iou_touching"], **exact)
    point = recorded_boxes.intersection_over_union([3.0] * 4, [3.0] * 4)
    check(case, "iou_two_identical_points", point, values["iou_two_identical_points"], **exact)
    with case.exactly("c_iou_zero_height"), pytest.raises(ZeroDivisionError):
        recorded_boxes.c_iou(line, square)

    overlaps = recorded_boxes.bbox_overlaps_ciou
    check_finite(case, "bbox_overlaps_ciou(n,n)", overlaps(a, b))
    check_finite(case, "bbox_overlaps_ciou(1,n)", overlaps(a[:1], b))
    check_finite(case, "bbox_overlaps_ciou(n,1)", overlaps(a, b[:1]))
    case.check("bbox_overlaps_ciou(n,0)_shape", np.array(overlaps(a, b[:0]).shape, np.int64))
    case.check("bbox_overlaps_ciou(degenerate)", overlaps(np.array([[5, 5, 5, 9.0]]), b[:1]))
    case.close()


@pytest.mark.case("c10e")
def test_evaluation_loops(case):
    """The end results of the reference's loops; frames without a mask are left out there."""
    loops, order = case.manifest["values"]["loops"], case.config["order"]
    pictures, scenes = case.mentioned("c10a"), case.mentioned("c10b")
    all_items = list(binary_items(pictures, order))
    whole = count(BinaryMasks(), all_items)
    for loop in ("ref_avs", "ms3", "s4_quick_start"):
        check(case, f"{loop}/miou", whole["miou"], loops[loop]["miou"])
        check(case, f"{loop}/f-score", whole["f"], loops[loop]["f-score"])
        check(case, f"{loop}/tot", whole["items"], loops[loop]["tot"])
    first = count(BinaryMasks(), all_items[:1])  # that loop stops after its first batch
    check(case, "s4/miou", first["miou"], loops["s4_inference_hyper_lora"]["miou"])
    check(case, "s4/f-score", first["f"], loops["s4_inference_hyper_lora"]["f-score"])

    without = {int(n) for n in case.config["without_masks"]["ref_avs"].removeprefix("samples ").split(",")}
    some = [
        Item(id=item.id, prediction=Unparsed("", "no mask tokens"), mask=item.mask) if i in without else item
        for i, item in enumerate(all_items)
    ]
    partly, recorded = count(BinaryMasks(), some), loops["ref_avs_some_without_masks"]
    check(case, "some/miou", partly["miou:unparsed_left_out"], recorded["miou"])
    check(case, "some/f-score", partly["f:unparsed_left_out"], recorded["f-score"])
    check(case, "some/tot", partly["items"] * (1 - partly["unparsed"]), recorded["tot"])
    assert partly["miou"] < recorded["miou"]  # leaving them out flatters

    nothing = count(NullMasks(), (Item(id=i.id, prediction=i.prediction, output=i.output) for i in all_items))
    check(case, "ref_avs_null/ms", nothing["s"], loops["ref_avs_null"]["ms"])

    frames = zip(scenes["logits"].astype(np.float32), scenes["target"])
    classes = scenes["logits"].shape[1]
    items = [Item(id=str(i), prediction=MASK, output=x, mask=y) for i, (x, y) in enumerate(frames)]
    avss = count(SemanticMasks(classes=classes), items)
    for name, ours in (
        ("miou", "miou"),
        ("miou_noBg", "miou:no_last_class"),
        ("f_score", "f"),
        ("f_score_noBg", "f:no_last_class"),
    ):
        check(case, f"avss/{name}", avss[ours], loops["avss"][name])


# ------------------------------------------------------------------------------------- the sibling's recorded metrics


@pytest.mark.case("avs_mask_iou_fmeasure")
def test_sibling_binary_masks(case):
    """IoU per frame; precision and recall at all thresholds; F over several frames at one threshold."""
    case.check("out/fmeasure/thresholds_255", masks.thresholds())
    for name in case.config["mask_iou"]:
        pairs = zip(case[f"in/mask_iou/{name}/pred"], case[f"in/mask_iou/{name}/gt"])
        ious = [mask_iou(masks.foreground(p), masks.foreground(t)) for p, t in pairs]
        case.check(f"out/mask_iou/{name}/per_frame", ious)
        case.check(f"out/mask_iou/{name}", np.mean(ious))
    for name in case.config["fmeasure"]:
        pairs = zip(case[f"in/fmeasure/{name}/prob"], case[f"in/fmeasure/{name}/gt"])
        frames = [masks.threshold_counts(p, masks.foreground(t)) for p, t in pairs]
        case.check(f"out/fmeasure/{name}/precision", [c.precision() for c in frames])
        case.check(f"out/fmeasure/{name}/recall", [c.recall() for c in frames])
        case.check(f"out/fmeasure/{name}", masks.mean_f_measure(frames))
    case.close()


@pytest.mark.case("avs_semantic")
def test_sibling_semantic_masks(case):
    """Sums per class and per frame. The two binary means of that system are not among our metrics."""
    for name in [c["name"] for c in case.config["cases"]]:
        logits, labels = case[f"in/{name}/logits"].astype(np.float32), case[f"in/{name}/labels"]
        tables = [semantic.confusion(semantic.class_ids(x), y, classes=logits.shape[1]) for x, y in zip(logits, labels)]
        iou, f, occurs = (np.sum(x, axis=0) for x in zip(*map(semantic.class_scores, tables)))
        for module in ("avsbench_metrics", "avsbench_utils"):
            place = f"out/{name}/{module}"
            case.check(f"{place}/color_miou_fscore/iou_sum", iou)
            case.check(f"{place}/color_miou_fscore/fscore_sum", f)
            case.check(f"{place}/color_miou_fscore/class_count", occurs)
            check_finite(case, f"{place}/color_miou_fscore/frame_miou", [semantic.frame_miou(t) for t in tables])
            case.check(f"{place}/color_miou/iou_sum", iou)
            case.check(f"{place}/color_miou/class_count", occurs)


@pytest.mark.case("avs_dataset_level")
def test_sibling_pooled(case):
    """Pixels of the whole data set in one table, with ignored pixels."""
    for entry in case.config["cases"]:
        name, classes = entry["name"], entry["num_classes"]
        metric = SemanticMasks(classes=classes, ignore=255)
        for batch in range(entry["batches"]):
            place = f"in/{entry['data']}/{batch}"
            for i, (x, y) in enumerate(zip(case[f"{place}/logits"].astype(np.float32), case[f"{place}/labels"])):
                metric.update(Item(id=f"{batch}/{i}", prediction=MASK, output=x, mask=y))
        table, result = metric.confusion(), metric.result()
        case.check(f"out/{name}/confusion_matrix", table)
        case.check(f"out/{name}/inter", np.diag(table))
        case.check(f"out/{name}/union", table.sum(0) + table.sum(1) - np.diag(table))
        case.check(f"out/{name}/miou_unrounded", result["miou:pooled"])
        if name != "all_ignored":  # nothing was counted: NaN here, 0 there
            case.check(f"out/{name}/acc_unrounded", result["accuracy:pooled"])
        three = [result[f"{n}:pooled"] for n in ("fdr", "f1", "f")]
        check_finite(case, f"out/{name}/fdr_f1_f03_rounded", np.round(three, 4))


@pytest.mark.case("avs_validation_loops")
def test_sibling_loops(case):
    """Whole evaluations of that system: pooled classes, and means over videos."""
    for entry in case.config["cases"]:
        name, classes = entry["name"], entry["num_classes"]
        batches = [
            (case[f"in/{name}/{v}/logits"].astype(np.float32), case[f"in/{name}/{v}/labels"])
            for v in range(entry["videos"])
        ]
        if entry["trainer"].endswith("obj"):
            ious, fs = [], []
            for logits, labels in batches:
                predicted, truth = logits.argmax(1) == 1, labels == 1
                e = np.exp(logits - logits.max(1, keepdims=True))
                probability = (e / e.sum(1, keepdims=True))[:, 1]
                ious.append(np.mean([mask_iou(p, t) for p, t in zip(predicted, truth)]))
                fs.append(masks.mean_f_measure([masks.threshold_counts(p, t) for p, t in zip(probability, truth)]))
            case.check(f"out/{name}/miou", np.mean(ious))
            case.check(f"out/{name}/f_0.3", np.mean(fs))
            continue
        metric = SemanticMasks(classes=classes, ignore=255)
        for v, (logits, labels) in enumerate(batches):
            for i, (x, y) in enumerate(zip(logits, labels)):
                metric.update(Item(id=f"{v}/{i}", prediction=MASK, output=x, mask=y))
        result = metric.result()
        for theirs, ours in (("miou", "miou"), ("acc", "accuracy"), ("fdr", "fdr"), ("f_1", "f1"), ("f_0.3", "f")):
            case.check(f"out/{name}/{theirs}", result[f"{ours}:pooled"])
