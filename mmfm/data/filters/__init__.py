"""Filters of shards: what a sample must be to stay, and an account of those that went."""

from mmfm.data.filters.blocklist import HashBlocklist, UrlBlocklist
from mmfm.data.filters.caption import CaptionFilter, RepeatedCaptions
from mmfm.data.filters.duplicates import EmbeddingDuplicates, ExactDuplicates, NearDuplicates
from mmfm.data.filters.filter import Drop, Filter, MeasuredFilter, SampleFilter, SetFilter
from mmfm.data.filters.language import LanguageFilter
from mmfm.data.filters.opt_out import OptOutFilter
from mmfm.data.filters.pipeline import EditedSamples, filter_shards
from mmfm.data.filters.report import Report
from mmfm.data.filters.score import ScoreFilter
from mmfm.data.filters.size import SizeFilter

__all__ = [
    "CaptionFilter", "Drop", "EditedSamples", "EmbeddingDuplicates", "ExactDuplicates", "Filter",
    "HashBlocklist", "LanguageFilter", "MeasuredFilter", "NearDuplicates", "OptOutFilter",
    "RepeatedCaptions", "Report", "SampleFilter", "ScoreFilter", "SetFilter", "SizeFilter",
    "UrlBlocklist", "filter_shards",
]  # fmt: skip
