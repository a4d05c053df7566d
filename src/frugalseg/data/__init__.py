"""Read data sets with whatever labels they have; `frugalseg.data.check` tells what is in one."""

from frugalseg.data.dataset import Box, Data, Record
from frugalseg.data.problems import DataError, Problem
from frugalseg.data.readers import read

__all__ = ["Box", "Data", "DataError", "Problem", "Record", "read"]
