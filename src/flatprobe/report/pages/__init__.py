"""The pages: a study's report, a comparison of two checkpoints, an audit."""
