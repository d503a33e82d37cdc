"""JSON schemas of the files that people parse.

::

    python -m diffusion.reports.schemas --output docs/reference/schemas

One file for each document, named by its title. Schemas that are published are those of the code: a test compares them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from diffusion.digits.planted_study import PlantedStudy
from diffusion.digits.quality import DigitsQuality, DigitsTraining, StepCosts
from diffusion.evaluation.audit_table import AuditReport
from diffusion.evaluation.benchmark_table import MethodRun, Table
from diffusion.evaluation.recount import Recount
from diffusion.evaluation.sweep.point import Point
from diffusion.reports.certificate import Certificate
from diffusion.reports.detector_certificate import DetectorCertificate
from diffusion.reports.exact import Explored, Frontier, SolutionDocument, Verification
from diffusion.reports.image_certificate import ImageCertificate
from diffusion.reports.ratios import RatiosReport
from diffusion.runtime.documents import Document, json_schema
from diffusion.runtime.files import check_folder, write_text
from diffusion.wardrobe.quality import WardrobeQuality

DOCUMENTS: tuple[type[Document], ...] = (
    Certificate,
    DetectorCertificate,
    ImageCertificate,
    RatiosReport,
    AuditReport,
    Recount,
    MethodRun,
    Table,
    Point,
    PlantedStudy,
    DigitsQuality,
    DigitsTraining,
    StepCosts,
    WardrobeQuality,
    SolutionDocument,
    Frontier,
    Verification,
    Explored,
)


def schemas() -> dict[str, str]:
    """File name to text."""
    return {f"{kind.title}.json": json_schema(kind) for kind in DOCUMENTS}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder for the schemas")
    output = parser.parse_args().output
    check_folder(output, "output")
    for name, text in schemas().items():
        write_text(output / name, text)


if __name__ == "__main__":
    main()
