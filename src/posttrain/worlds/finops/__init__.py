"""Financial operations: companies of three tenants with their books, tools, roles and tasks. Importing this registers the world."""

from posttrain.worlds.finops import bookings, lookups, payments, policies, refusals
from posttrain.worlds.finops.company import ROLES, TENANTS, build_database, database_hash
from posttrain.worlds.finops.environment import FinopsEnvironment
from posttrain.worlds.finops.signatures import ACTIONS, allowed
from posttrain.worlds.finops.world import FINOPS, FinopsWorld

__all__ = [
    "ACTIONS",
    "FINOPS",
    "ROLES",
    "TENANTS",
    "FinopsEnvironment",
    "FinopsWorld",
    "allowed",
    "bookings",
    "build_database",
    "database_hash",
    "lookups",
    "payments",
    "policies",
    "refusals",
]
