"""Geometric measures of personas' hidden states, with intervals over questions and personas.

Shapes: P personas (0 is the source), Q questions, L layers, D hidden size, B weightings of the questions, R resamples.

- `states`: `States`, h[P, Q, L, D] of one condition; `StateKind`, where they were read
- `inner_products`: h[P, Q, D] -> Gram matrix [P, Q, P, Q] of one layer
- `grams`: States of several conditions -> `PairGrams` per pair of conditions, [L, P, Q, P, Q]
- `kernels`: question kernels [..., Q, Q] and `QuestionWeights` [B, Q] -> `Forms` [..., B], inner products of centroids
- `products`: `PersonaKernels` of one condition and weights -> `Products` [L, ..., B]: cosines, distances, norms
- `measures`: `PairProducts` of two conditions -> each of `MEASURES` as [L, B], with null 0
- `values`: PairGrams -> `Values` per measure: estimate [L], leave-one-out [L, Q] and [L, P - 1], draws [L, R]
- `inference`: Values -> `Estimate`s with intervals and p-values
- `contrasts`: States or PairGrams -> all `Estimate`s of a contrast: the whole chain in one call
- `condition_values`: PairGrams -> the two values that a measure compares
- `tables`, `massive`, `reliability`: States -> tables that describe one condition
- `sensitivity`: leave-one-out and max-T over positions; `persona_map`: squared distances [P, P] -> a plane [P, 2]
"""
