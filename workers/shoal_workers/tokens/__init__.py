"""Text to tokens and back, for gateway and agents: chat templates without a deep-learning library."""

from shoal_workers.tokens.chat import ChatTokenizer
from shoal_workers.tokens.template import RESERVED_VARIABLES, ChatTemplate, TemplateError

__all__ = ["RESERVED_VARIABLES", "ChatTemplate", "ChatTokenizer", "TemplateError"]
