"""Text to tokens and back, for gateway and agents: chat templates without a deep-learning library."""

from shoal_workers.tokens.chat import ChatTokenizer
from shoal_workers.tokens.template import ChatTemplate, TemplateError

__all__ = ["ChatTemplate", "ChatTokenizer", "TemplateError"]
