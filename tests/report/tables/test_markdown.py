import re

from table_parts import COMMON, result, row, sheet

from reals.report.tables.build import build
from reals.report.tables.markdown import markdown


def test_markdown_golden():
    table = build(
        sheet(
            row("a", "run-a", fid="40.0"),
            row("b", "run-b", baseline="a", fid="30.0", note="x_y", section="S"),
        ),
        {("evaluation", "run-a"): result("run-a", fid=20.0, **{"is": 2.0})},
        COMMON,
    )
    text = re.sub(r"-{3,}", "---", re.sub(r" {2,}", " ", markdown(table)))
    assert text == (
        "# Table 3. A title.\n\n"
        "- scale: demo\n- feature extractor: digits-cnn\n\n"
        "**Measured at demo scale, not under the paper's protocol: measured figures are not comparable "
        "with published ones; compare measured figures with each other.**\n\n"
        "| Model | FID ↓ published | FID ↓ measured | ΔFID (%) published | ΔFID (%) measured | IS ↑ measured |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: |\n"
        "| model a | 40.0 | 20.00 | | | 2.00 |\n"
        "| **S** | | | | | |\n"
        "| model b¹ | 30.0 | … | −25.0 | | … |\n\n"
        "Mean ΔFID over the 1 pair the paper compares: published −25.0 %, measured ….\n\n"
        "- ¹ x\\_y.\n\n"
        "- Arrows point to better.\n"
        "- Measured: FID, IS on features of digits-cnn. Published: on Inception's.\n"
        "- … not measured yet at this scale.\n"
        "- Labels (models, sizes, steps, epochs) are the paper's.\n"
    )
