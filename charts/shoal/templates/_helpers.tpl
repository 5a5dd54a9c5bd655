{{/* Longest name that leaves room for what is added to it ("-operator") within a label's 63 characters. */}}
{{- define "shoal.shorten" -}}
{{- if gt (len .) 52 -}}
{{- /* Two long names with one beginning must stay two. */ -}}
{{- printf "%s-%s" (. | trunc 43 | trimSuffix "-") (. | sha256sum | trunc 8) -}}
{{- else -}}
{{- . -}}
{{- end -}}
{{- end -}}

{{- define "shoal.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "shoal.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- include "shoal.shorten" .Values.fullnameOverride -}}
{{- else if contains $name .Release.Name -}}
{{- include "shoal.shorten" .Release.Name -}}
{{- else -}}
{{- include "shoal.shorten" (printf "%s-%s" .Release.Name $name) -}}
{{- end -}}
{{- end -}}

{{- define "shoal.operator" -}}
{{- printf "%s-operator" (include "shoal.fullname" .) -}}
{{- end -}}

{{- define "shoal.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "shoal.operator" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "shoal.priorityClass" -}}
{{- if .Values.priorityClass.create -}}
{{- default (include "shoal.operator" .) .Values.priorityClass.name -}}
{{- else -}}
{{- .Values.priorityClass.name -}}
{{- end -}}
{{- end -}}

{{/* What finds the operator's pods; it can never change, so nothing of a version is in it. */}}
{{- define "shoal.selector" -}}
app.kubernetes.io/name: {{ include "shoal.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "shoal.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "shoal.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Image of a name in the registry, unless the role has one of its own: (list $ ROLE NAME). */}}
{{- define "shoal.image" -}}
{{- $root := index . 0 -}}
{{- $own := index $root.Values.images (index . 1) -}}
{{- if $own -}}
{{- $own -}}
{{- else -}}
{{- printf "%s/%s:%s" (trimSuffix "/" $root.Values.image.prefix) (index . 2) (default $root.Chart.AppVersion $root.Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* The rules of one scope that these values ask for, as YAML: (list $ SCOPE). */}}
{{- define "shoal.rules" -}}
{{- $root := index . 0 -}}
{{- $scope := index . 1 -}}
{{- $wanted := dict "" true
      "kueue" $root.Values.interplay.kueue
      "kuberay" $root.Values.interplay.kuberay
      "agent-sandbox" $root.Values.interplay.agentSandbox
      "leaderworkerset" $root.Values.interplay.leaderWorkerSet -}}
{{- range $root.Files.Get "files/rules.yaml" | fromYamlArray }}
{{- if and (eq .scope $scope) (index $wanted .when) }}
# {{ .why }}
- apiGroups: {{ toJson .apiGroups }}
  resources: {{ toJson .resources }}
  verbs: {{ toJson .verbs }}
{{- end }}
{{- end }}
{{- end -}}
