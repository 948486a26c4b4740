"""``generators``: the settings of any family, those of other packages too."""

from lungsyn.registry import families
from lungsyn.settings.section import any_of

AnyGenerator = any_of(family.Settings for family in families("generators").values())
