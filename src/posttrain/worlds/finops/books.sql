-- One database holds the companies of all tenants; amounts are integer cents. Debits are positive, credits negative.
CREATE TABLE companies (tenant TEXT PRIMARY KEY, name TEXT NOT NULL, today TEXT NOT NULL);
CREATE TABLE people (name TEXT PRIMARY KEY, tenant TEXT NOT NULL, role TEXT NOT NULL);
CREATE TABLE limits (tenant TEXT, role TEXT, cents INTEGER NOT NULL, PRIMARY KEY (tenant, role));
CREATE TABLE accounts (number TEXT PRIMARY KEY, tenant TEXT NOT NULL, name TEXT NOT NULL, type TEXT NOT NULL, department TEXT);
CREATE TABLE entries (id TEXT PRIMARY KEY, tenant TEXT NOT NULL, date TEXT NOT NULL, memo TEXT NOT NULL, status TEXT NOT NULL, by TEXT NOT NULL);
CREATE TABLE lines (entry TEXT NOT NULL, number INTEGER NOT NULL, account TEXT NOT NULL, cents INTEGER NOT NULL, PRIMARY KEY (entry, number));
CREATE TABLE parties (name TEXT PRIMARY KEY, tenant TEXT NOT NULL, kind TEXT NOT NULL, bank_account TEXT NOT NULL, changed TEXT);
CREATE TABLE invoices (id TEXT PRIMARY KEY, tenant TEXT NOT NULL, kind TEXT NOT NULL, party TEXT NOT NULL, cents INTEGER NOT NULL,
                       due TEXT NOT NULL, status TEXT NOT NULL, note TEXT NOT NULL);
CREATE TABLE statement (id TEXT PRIMARY KEY, tenant TEXT NOT NULL, account TEXT NOT NULL, date TEXT NOT NULL, cents INTEGER NOT NULL,
                        party TEXT NOT NULL, invoice TEXT);
CREATE TABLE budgets (tenant TEXT, department TEXT, cents INTEGER NOT NULL, PRIMARY KEY (tenant, department));
CREATE TABLE approvals (id TEXT PRIMARY KEY, tenant TEXT NOT NULL, subject TEXT NOT NULL, cents INTEGER NOT NULL, status TEXT NOT NULL,
                        requested_by TEXT NOT NULL, decided_by TEXT);
CREATE TABLE transfers (id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, from_account TEXT NOT NULL, to_account TEXT NOT NULL,
                        cents INTEGER NOT NULL, date TEXT NOT NULL, approval TEXT, by TEXT NOT NULL);
CREATE TABLE escalations (id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, reason TEXT NOT NULL, reference TEXT NOT NULL, by TEXT NOT NULL);
CREATE TABLE documents (id TEXT PRIMARY KEY, tenant TEXT NOT NULL, topic TEXT NOT NULL, text TEXT NOT NULL, fact TEXT NOT NULL);
CREATE INDEX lines_by_account ON lines (account);
CREATE INDEX invoices_by_party ON invoices (party);
