{{- define "kaito.name" -}}
{{- .Values.nameOverride | default (printf "kaito-%s" .Chart.Name) | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "kaito.account" -}}
{{- .Values.serviceAccount.name | default (include "kaito.name" .) -}}
{{- end -}}

{{- define "kaito.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "kaito.selector" -}}
app.kubernetes.io/name: {{ include "kaito.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "kaito.labels" -}}
{{ include "kaito.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: kaito
{{- end -}}
