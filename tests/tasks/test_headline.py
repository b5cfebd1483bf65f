import pandas as pd

from tasks.headline import headlines


def row(architecture: str, psnr_db: float, **changes: object) -> dict[str, object]:
    return {
        "dataset": "set5",
        "scale": 2,
        "architecture": architecture,
        "psnr_db": psnr_db,
        "ssim": psnr_db / 40,
        "latency_ms": 2.0,
        "num_parameters": 0,
        "num_multiply_adds": 0,
        "train_s": 0.0,
        "device": "",
        "status": "ok",
        **changes,
    }


def test_best_by_how_much_at_what_cost() -> None:
    vdsr = {"latency_ms": 500.0, "num_parameters": 664_704, "train_s": 7200.0, "device": "H100"}
    rows = [row("bicubic", 33.66), row("vdsr", 37.53, **vdsr), row("srcnn", 36.66)]
    (best,) = headlines(pd.DataFrame(rows))
    assert best.architecture == "vdsr"
    # Kim et al. 2016, Table 3: 37.53, 36.66 and 33.66
    assert best.by_how_much == "+3.87 dB over bicubic, +0.87 dB over srcnn"
    assert best.at_what_cost == (
        "664,704 parameters, 500.0 ms per picture (250 × bicubic), 7,200 s of training on H100"
    )


def test_failed_rows_win_nothing() -> None:
    rows = [row("bicubic", 33.0), row("srcnn", 40.0, status="failed")]
    (best,) = headlines(pd.DataFrame(rows))
    assert best.architecture == "bicubic"
    assert best.by_how_much == "nothing to compare it with"
    assert "×" not in best.at_what_cost


def test_bicubic_as_second_is_said_once() -> None:
    (best,) = headlines(pd.DataFrame([row("bicubic", 33.0), row("lanczos", 33.5)]))
    assert best.by_how_much == "+0.50 dB over bicubic"


def test_one_for_each_data_set_and_scale() -> None:
    rows = [row("bicubic", 30.0), row("bicubic", 28.0, scale=3), row("nearest", 29.0, scale=3)]
    found = [
        (each.dataset, each.scale, each.architecture) for each in headlines(pd.DataFrame(rows))
    ]
    assert found == [("set5", 2, "bicubic"), ("set5", 3, "nearest")]


def test_nothing_measured() -> None:
    assert headlines(pd.DataFrame([row("srcnn", 0.0, status="failed")])) == []


def test_infinite_psnr_is_no_difference() -> None:
    endless = float("inf")
    (best,) = headlines(pd.DataFrame([row("bicubic", endless), row("nearest", endless)]))
    assert (best.gain_db, best.lead_db) == (None, None)
    (best,) = headlines(pd.DataFrame([row("bicubic", 30.0), row("srcnn", endless)]))
    assert (best.gain_db, best.lead_db) == (None, None)


def test_times_of_two_machines_have_no_ratio() -> None:
    rows = [
        row("bicubic", 33.0, timed_device="laptop", timed_num_threads=1, timed_precision="fp32"),
        row("srcnn", 36.0, timed_device="H100", timed_num_threads=1, timed_precision="fp32"),
    ]
    assert headlines(pd.DataFrame(rows))[0].latency_ratio is None
    rows[0]["timed_device"] = "H100"
    assert headlines(pd.DataFrame(rows))[0].latency_ratio == 1.0
