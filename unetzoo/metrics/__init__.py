r"""Scores of segmentations: Dice, IoU, precision, recall, specificity, accuracy and the boundary F-score.

All are computed from the same counts of pixels, which are added up over batches, devices and processes. For each class
against the rest, a pixel that is not ignored is a true positive (TP), false positive (FP), false negative (FN) or
true negative (TN):

=============  ==================================  =====================================
score          formula                             not defined (nan) where
=============  ==================================  =====================================
dice           2 TP / (2 TP + FP + FN)             neither target nor prediction has it
iou            TP / (TP + FP + FN)                 neither target nor prediction has it
precision      TP / (TP + FP)                      the prediction has none of it
recall         TP / (TP + FN)                      the target has none of it
specificity    TN / (TN + FP)                      the target has nothing else
accuracy       (TP + TN) / (TP + FP + FN + TN)     all pixels are ignored
boundary_f     2 P R / (P + R), see below          neither has a boundary
=============  ==================================  =====================================

Dice is the F1 score of the pixels, IoU the Jaccard index, recall the sensitivity.

The boundary F-score (Csurka et al. 2013, "What is a good evaluation measure for semantic segmentation?", section 2;
Perazzi et al. 2016, "A benchmark dataset and evaluation methodology for video object segmentation", section 4): P is
the share of the prediction's boundary pixels within ``boundary_tolerance`` pixels of one of the target's, in Euclidean
distance between centres, and R is the reverse. If only one of the two has boundary pixels, the score is 0.
A boundary pixel of a mask is one inside it with a 4-neighbour outside it, as in scikit-image's
``find_boundaries(mask, mode="inner")``: the border of the image is not a boundary. Ignored pixels are not boundary
pixels, and do not make their neighbours boundary pixels.

Each score is computed in two ways. *Pooled*: all pixels of all images are counted together. *Per image*: the mean of
the scores of single images, over those for which it is defined. A mean over classes is over those for which it is
defined, so that a class absent from both target and prediction changes nothing. In a multiclass task, class 0 counts
like any other, as in Cityscapes and VOC.
"""

from unetzoo.metrics.scores import METRICS, ClassScores, ImageScores, Scores
from unetzoo.metrics.segmentation import SegmentationMetrics

__all__ = ["METRICS", "ClassScores", "ImageScores", "Scores", "SegmentationMetrics"]
