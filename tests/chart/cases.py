"""Values that tests render the chart with, by name."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

EVERYTHING: Json = {
    "image": {"prefix": "registry.example.com/team/shoal", "tag": "1.2.3", "pullSecrets": [{"name": "registry"}]},
    "images": {"engine": "registry.example.com/vllm@sha256:" + "0" * 64},
    "operator": {
        "replicas": 3,
        "workers": 16,
        "env": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
        "logLevel": "debug",
        "logFormat": "text",
        "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
        "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ca", "readOnly": True}],
        "extraContainers": [
            {
                "name": "proxy",
                "image": "registry.example.com/proxy:1",
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }
        ],
        "extraPodSpec": {"hostAliases": [{"ip": "192.0.2.1", "hostnames": ["api.example.com"]}]},
        "livenessProbe": {"failureThreshold": 12},
        "readinessProbe": {"periodSeconds": 5},
    },
    "podAnnotations": {"example.com/a": "b"},
    "podLabels": {"team": "rl"},
    "commonLabels": {"cost-center": "42"},
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "control", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClass": {"create": True},
    "serviceAccount": {"annotations": {"example.com/identity": "shoal"}},
    "metrics": {"service": {"annotations": {"example.com/scrape": "yes"}}},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}, "alertLabels": {"team": "rl"}},
    "dashboard": {"enabled": True, "annotations": {"grafana_folder": "Shoal"}},
    "networkPolicy": {
        "metricsFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        "apiServerPorts": [6443],
        "apiServerCidrs": ["192.0.2.0/24"],
        "scrapeNamespaces": ["monitoring"],
    },
    "extraObjects": [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "{{ .Release.Name }}-extra"},
            "data": {"chart": "{{ .Chart.Name }}"},
        }
    ],
}

MINIMAL: Json = {
    "operator": {"replicas": 1, "leaderElection": False},
    "crds": {"enabled": False},
    "rbac": {"create": False, "aggregate": False},
    "serviceAccount": {"create": False, "name": "mine"},
    "topologySpread": {"enabled": False},
    "podDisruptionBudget": {"enabled": False},
    "metrics": {"service": {"enabled": False}},
    "networkPolicy": {"enabled": False, "dataPlane": False},
}

CASES: dict[str, Json] = {
    "default": {},
    "one-namespace": {"watchNamespaces": ["training"]},
    "one-namespace-alone": {
        "watchNamespaces": ["training"],
        "rbac": {"aggregate": False},
        "crds": {"enabled": False},
        "interplay": {"kueue": False},
    },
    "everything": EVERYTHING,
    "minimal": MINIMAL,
}
