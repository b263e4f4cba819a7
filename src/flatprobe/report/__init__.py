"""The report: one self-contained page of a run's analysis folder (`flatprobe.report.pages.study.render`)."""
