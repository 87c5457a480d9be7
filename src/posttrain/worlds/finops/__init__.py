"""Financial operations: companies of three tenants with their books, tools, roles and tasks. Importing this registers the world."""

from posttrain.worlds.finops import lookups
from posttrain.worlds.finops.company import ROLES, TENANTS, build_database, database_hash
from posttrain.worlds.finops.environment import FinopsEnvironment
from posttrain.worlds.finops.signatures import ACTIONS, allowed, signature
from posttrain.worlds.finops.world import FINOPS, FinopsWorld

__all__ = [
    "ACTIONS",
    "FINOPS",
    "ROLES",
    "TENANTS",
    "FinopsEnvironment",
    "FinopsWorld",
    "allowed",
    "build_database",
    "database_hash",
    "lookups",
    "signature",
]
