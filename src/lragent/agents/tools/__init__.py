"""Offline tools: document search, page reading and arithmetic."""

from lragent.agents.tools.calculator import CalculationError, calculate
from lragent.agents.tools.documents import Document, DocumentError, DocumentStore
from lragent.agents.tools.reader import Reader
from lragent.agents.tools.toolbox import Observation, Tool, Toolbox, ToolError, document_toolbox

__all__ = [
    "CalculationError",
    "Document",
    "DocumentError",
    "DocumentStore",
    "Observation",
    "Reader",
    "Tool",
    "ToolError",
    "Toolbox",
    "calculate",
    "document_toolbox",
]
