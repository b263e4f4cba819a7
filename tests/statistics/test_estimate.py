from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from flatprobe.statistics.estimate import Estimate, estimates_frame, write_json

ESTIMATE = Estimate(
    quantity="leakage_difference", contrast="a - b", treated="a", control="b", pool="bystanders",
    estimator="persona_t", scope="new personas", estimate=float(np.float64(0.1)), lambda_=1.0,
)  # fmt: skip


def test_unknown_numbers_are_null_in_frame_and_file(tmp_path: Path) -> None:
    write_json([ESTIMATE], tmp_path / "estimates.json")
    row = json.loads((tmp_path / "estimates.json").read_text())[0]
    assert row == estimates_frame([ESTIMATE]).row(0, named=True)
    assert row["p_value"] is None and row["lambda"] == 1.0 and "lambda_" not in row


def test_an_empty_list_has_the_columns_and_types_of_a_full_one() -> None:
    assert estimates_frame([]).schema == estimates_frame([ESTIMATE]).schema
