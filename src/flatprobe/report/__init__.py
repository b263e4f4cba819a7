"""The report: turns the analysis folder of a run into one self-contained page
(`flatprobe.report.pages.study.render`)."""
