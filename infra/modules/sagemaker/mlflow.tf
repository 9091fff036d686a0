resource "aws_iam_role" "mlflow" {
  count                = var.mlflow ? 1 : 0
  name                 = "${var.name}-mlflow"
  permissions_boundary = var.permissions_boundary_arn
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "sagemaker.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = { StringEquals = { "aws:SourceAccount" = var.account_id } }
    }]
  })
}

resource "aws_iam_role_policy" "mlflow" {
  count = var.mlflow ? 1 : 0
  name  = "keep-artifacts"
  role  = aws_iam_role.mlflow[0].name
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "KeepArtifacts"
        Effect   = "Allow"
        Action   = ["s3:GetObject", "s3:PutObject"]
        Resource = "arn:aws:s3:::${var.models_bucket}/mlflow/*"
      },
      {
        Sid       = "ListArtifacts"
        Effect    = "Allow"
        Action    = "s3:ListBucket"
        Resource  = "arn:aws:s3:::${var.models_bucket}"
        Condition = { StringLike = { "s3:prefix" = ["mlflow/*"] } }
      },
      {
        Sid      = "UseTheKey"
        Effect   = "Allow"
        Action   = ["kms:Decrypt", "kms:GenerateDataKey"]
        Resource = var.kms_key_arn
      },
    ]
  })
}

resource "aws_sagemaker_mlflow_tracking_server" "this" {
  count                = var.mlflow ? 1 : 0
  tracking_server_name = var.name
  tracking_server_size = "Small"
  artifact_store_uri   = "s3://${var.models_bucket}/mlflow"
  role_arn             = aws_iam_role.mlflow[0].arn
  # Models are registered by the gate, once they passed, and not by whoever logs one.
  automatic_model_registration    = false
  weekly_maintenance_window_start = "Sun:03:00"
  depends_on                      = [aws_iam_role_policy.mlflow]
}
