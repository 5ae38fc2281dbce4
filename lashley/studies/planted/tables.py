from __future__ import annotations
def result(config, found, provenance):
    import json
    json.dump(found, open("/tmp/planted_found.json","w")); json.dump(provenance, open("/tmp/planted_prov.json","w"))
