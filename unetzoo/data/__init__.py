"""Data sets of images and masks: listing, splitting, checking, reading."""

from unetzoo.data.checking import check as check
from unetzoo.data.counting import ObjectsReport as ObjectsReport
from unetzoo.data.dataset import SegmentationDataset as SegmentationDataset
from unetzoo.data.histograms import Histogram as Histogram
from unetzoo.data.labels import IGNORED as IGNORED, Labels as Labels
from unetzoo.data.listing import Listing as Listing, Sample as Sample, Source as Source
from unetzoo.data.plain_folders import convert as convert
from unetzoo.data.previewing import preview as preview
from unetzoo.data.report import DataReport as DataReport, SplitReport as SplitReport
from unetzoo.data.sampling import EpochBatches as EpochBatches
from unetzoo.data.splitting import find_samples as find_samples
from unetzoo.data.stacks import list_samples as list_samples
from unetzoo.data.understanding import check_meaning as check_meaning, labels_of as labels_of
