"""``generators``: the settings of any family, those of other packages too."""

from typing import Annotated

from lungsyn.registry import family
from lungsyn.settings.kinds import OfKind
from lungsyn.settings.section import Section

AnyGenerator = Annotated[Section, OfKind("generators", lambda kind: family("generators", kind).Settings)]
